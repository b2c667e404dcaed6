"""What is done with one model: what it knows about itself, loading it, using it."""
