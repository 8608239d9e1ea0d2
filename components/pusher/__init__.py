"""Pushes what was judged."""
