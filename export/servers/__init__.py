"""Artifacts for servers: SavedModels, and the folders and settings around models."""
