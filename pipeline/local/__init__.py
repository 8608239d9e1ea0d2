"""Runs on this machine, and what they tell."""
