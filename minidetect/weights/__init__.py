"""Trained weights that ship with the package, a model card beside each."""
