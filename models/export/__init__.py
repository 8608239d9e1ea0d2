"""Test protocols and the SavedModel that answers by them."""
