"""From the bytes of an image to what a network sees of it."""
