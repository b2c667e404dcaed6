"""Augmentations: pure functions of an image and a seed, so that runs can be repeated."""

from __future__ import annotations

import tensorflow as tf


def pad_and_crop(image: tf.Tensor, seed: tf.Tensor, padding: int = 4) -> tf.Tensor:
    """Pads an image with `padding` black pixels on each side and crops its own size out at random.

    He et al. 2015, section 4.2 (CIFAR). `image`: `(height, width, channels)`, any type; `seed`: two
    integers.
    """
    padded = tf.pad(image, [[padding, padding], [padding, padding], [0, 0]])
    return tf.image.stateless_random_crop(padded, tf.shape(image), seed)
