"""Training runs: `train`, the files that it writes, and how a run is resumed."""
