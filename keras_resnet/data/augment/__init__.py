"""Augmentation: pure functions of a picture and a seed, applied inside `tf.data`."""
