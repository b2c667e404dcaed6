"""Augmentation as pure functions of an image and a seed, for use in `tf.data` pipelines."""
