"""Faults of a data set, and the speed of reading it."""
