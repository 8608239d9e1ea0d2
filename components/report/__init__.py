"""The report of a run: one page for people, one file for machines."""
