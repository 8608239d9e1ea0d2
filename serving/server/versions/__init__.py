"""Versions of models: found, loaded, switched, freed."""
