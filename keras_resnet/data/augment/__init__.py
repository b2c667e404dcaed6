"""Augmentation: pure functions of an image and a seed, applied inside `tf.data`."""
