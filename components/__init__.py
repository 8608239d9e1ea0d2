"""TFX components that TFX does not have."""
