"""Weights of other packages: how their layers are called, and how their arrays are laid out."""
