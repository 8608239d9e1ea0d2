"""Starts a real server on a candidate and asks it, before it is pushed."""
