"""Weights of others by name: what there is, and their files on this machine."""
