"""A model in memory, and what it is asked."""
