"""Where images lie: archives, folders, TFDS."""
