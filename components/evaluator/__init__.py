"""The judge: metrics, the model to compare with, the verdict."""
