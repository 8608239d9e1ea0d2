"""The paper's experiments: sets of pipeline runs, each with a report beside the paper's numbers."""
