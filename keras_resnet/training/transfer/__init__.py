"""Transfer of a trained network to another task."""
