"""What is wrong with a data set, and how fast it is read."""
