"""A training run: `train`, what it writes and how it is resumed."""
