"""The gate before training: schema, statistics, drift between spans."""
