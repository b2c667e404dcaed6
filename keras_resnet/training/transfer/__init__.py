"""Taking a trained network to another task."""
