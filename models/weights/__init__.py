"""Weights to start from, in the files of this project and of others."""
