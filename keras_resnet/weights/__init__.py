"""Published checkpoints, and the names and layouts of weights in other packages."""
