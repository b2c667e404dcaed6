"""Whole jobs, each a command: they put training, export and reports together."""
