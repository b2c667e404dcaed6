"""Random erasing, as a pure function of an image and a seed."""

from __future__ import annotations

import math

import tensorflow as tf

from keras_resnet.data.augment.color import paste, to_uint8

#: Smallest and largest share of the image's area, and ratio of height to width, of a rectangle.
AREA = (0.02, 1 / 3)
ASPECT = (0.3, 1 / 0.3)

#: Number of rectangles that are drawn to find one that fits.
ATTEMPTS = 10

#: Mean and standard deviation of ImageNet's colors, for RGB in [0, 1].
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


def random_erasing(image: tf.Tensor, seed: tf.Tensor, probability: float) -> tf.Tensor:
    """Overwrite a random rectangle with noise.

    Follows Zhong et al. 2020, with timm's ranges and its independent noise for every pixel and
    channel. timm draws standard normal noise for normalized images. Images are not normalized here,
    so the noise has the mean and the standard deviation of ImageNet's colors and is rounded and
    clipped to [0, 255].

    Args:
        image: `(height, width, 3)`, uint8, RGB in [0, 255].
        seed: two integers.
        probability: probability of erasing, in [0, 1]. In the rare case that none of ten random
            rectangles fits into the image, nothing is erased.

    Returns:
        `(height, width, 3)`, uint8.
    """
    choice, shape, place, noise = tf.unstack(tf.random.split(seed, num=4))
    chosen = tf.random.stateless_uniform((), choice) < probability
    size, fits = _size(image, shape)
    erased = tf.cond(
        chosen & fits,
        lambda: _erase(image, size, place, noise),
        lambda: tf.identity(image),
    )
    return tf.ensure_shape(erased, image.shape)


def _size(image: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the height and width of the first rectangle that fits, and whether one does."""
    whole = tf.shape(image)[:2]
    draws = tf.random.stateless_uniform((2, ATTEMPTS), seed)
    area = AREA[0] + (AREA[1] - AREA[0]) * draws[0]
    area *= tf.cast(tf.reduce_prod(whole), tf.float32)
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    aspect = tf.exp(low + (high - low) * draws[1])
    sizes = tf.stack([tf.sqrt(area * aspect), tf.sqrt(area / aspect)], axis=1)
    sizes = tf.cast(tf.math.rint(sizes), tf.int32)
    fitting = tf.reduce_all((sizes > 0) & (sizes < whole), axis=1)
    first = tf.argmax(fitting, output_type=tf.int32)
    return sizes[first], tf.reduce_any(fitting)


def _erase(image: tf.Tensor, size: tf.Tensor, place: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    whole = tf.shape(image)[:2]
    free = tf.cast(whole - size + 1, tf.float32)
    start = tf.cast(tf.random.stateless_uniform((2,), place) * free, tf.int32)
    noise = tf.random.stateless_normal((size[0], size[1], 3), seed)
    patch = to_uint8(255 * (tf.constant(_MEAN) + tf.constant(_DEVIATION) * noise))
    return paste(image, patch, start)
