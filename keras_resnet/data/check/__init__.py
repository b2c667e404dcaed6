"""Checks of a data set for faulty images, and benchmarks of its input pipeline."""
