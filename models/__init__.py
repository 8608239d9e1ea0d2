"""What is learnt: networks, pixels, training, export. No TFX import here."""
