"""Settings, what is valid, and where things lie."""
