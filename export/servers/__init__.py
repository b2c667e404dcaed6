"""What servers load: SavedModels, and the folders and settings around models."""
