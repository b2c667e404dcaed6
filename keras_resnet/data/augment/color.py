"""Changes of an image's colors, as pure functions of the image and a seed.

Images, given and returned, are `(height, width, 3)`, uint8, RGB in [0, 255]; a seed is two
integers, int32 or int64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import tensorflow as tf

#: Weights of red, green and blue in gray (ITU-R BT.601).
_GRAY = (0.299, 0.587, 0.114)

#: Standard deviations of ImageNet's colors along their principal components, and the components as
#: columns, for RGB in [0, 1]: `pca` in datasets/imagenet.lua of facebookarchive/fb.resnet.torch.
_EIGENVALUES = (0.2175, 0.0188, 0.0045)
_EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)


def color_jitter(
    image: tf.Tensor,
    seed: tf.Tensor,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> tf.Tensor:
    """Change brightness, contrast, saturation and hue in a random order, as torchvision does.

    Brightness, contrast and saturation blend the image with black, with its mean gray and with its
    gray version, each by a factor of its own. Every step clips its result to [0, 255], as Pillow's
    `ImageEnhance` does, but values are rounded only once, at the end, whereas Pillow truncates them
    after every step.

    Args:
        image: the image.
        seed: the seed of all random values.
        brightness: the factor is uniform in [1 - brightness, 1 + brightness], and at least 0. A
            value of 0 skips the step.
        contrast: as `brightness`.
        saturation: as `brightness`.
        hue: the hue is rotated by a share of a full turn, uniform in [-hue, hue]; at most 0.5. A
            value of 0 skips the step.
    """
    draws = tf.random.stateless_uniform((2, 4), seed)
    signed = 2 * draws[0] - 1
    limits = (brightness, contrast, saturation, hue)
    chosen = [index for index, limit in enumerate(limits) if limit > 0]
    pixels = tf.cast(image, tf.float32)
    order = tf.argsort(tf.gather(draws[1], tf.constant(chosen, tf.int32)))
    for position in range(len(chosen)):
        steps = [partial(_STEPS[index], pixels, limits[index] * signed[index]) for index in chosen]
        pixels = tf.switch_case(order[position], steps)
    return to_uint8(pixels)


def lighting(image: tf.Tensor, seed: tf.Tensor, deviation: float) -> tf.Tensor:
    """Add one random color along the principal components of ImageNet's colors to all pixels.

    Follows Krizhevsky et al. 2012, section 4.1, with the constants of fb.resnet.torch. Sums are
    rounded and clipped to [0, 255]. `deviation` is the standard deviation of the factors of the
    three components, 0.1 in the paper.
    """
    factors = tf.random.stateless_normal((3,), seed, stddev=deviation)
    shift = 255 * tf.reduce_sum(tf.constant(_EIGENVECTORS) * factors * _EIGENVALUES, axis=1)
    pixels = tf.cast(image_rows(image), tf.float32) + along_row(shift, image)
    return tf.reshape(to_uint8(pixels), tf.shape(image))


def random_auto_contrast(image: tf.Tensor, seed: tf.Tensor, probability: float) -> tf.Tensor:
    """Apply `auto_contrast` with a probability in [0, 1]."""
    chosen = tf.random.stateless_uniform((), seed) < probability
    return tf.cond(chosen, lambda: auto_contrast(image), lambda: tf.identity(image))


def auto_contrast(image: tf.Tensor) -> tf.Tensor:
    """Stretch every channel to the range from 0 to 255.

    The result is exactly that of Pillow's `ImageOps.autocontrast`. A channel with a single level
    does not change.
    """
    # float64 and Pillow's order of operations: it truncates, so that any rounding error could
    # change a value by 1.
    low = tf.cast(tf.reduce_min(image, axis=(0, 1)), tf.float64)
    high = tf.cast(tf.reduce_max(image, axis=(0, 1)), tf.float64)
    varied = tf.cast(high > low, tf.float64)
    scale = varied * 255 / tf.maximum(high - low, 1) + (1 - varied)
    offset = -low * scale * varied
    rows = tf.cast(image_rows(image), tf.float64)
    stretched = rows * along_row(scale, image) + along_row(offset, image)
    return tf.reshape(tf.cast(stretched, tf.uint8), tf.shape(image))


def image_rows(image: tf.Tensor) -> tf.Tensor:
    """Reshape `(height, width, 3)` to `(height, width * 3)`, for use with `along_row`."""
    return tf.reshape(image, (-1, 3 * tf.shape(image)[1]))


def along_row(values: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """Repeat one value per channel, `(3,)`, along a row of pixels, `(width * 3,)`.

    TensorFlow broadcasts a row to an image several times faster than three values.
    """
    return tf.tile(values, tf.shape(image)[1:2])


def paste(image: tf.Tensor, patch: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """Overwrite a rectangle of an image with `patch`; `start` is its top left corner, int32."""
    margins = tf.stack([start, tf.shape(image)[:2] - start - tf.shape(patch)[:2]], axis=1)
    margins = tf.concat([margins, [[0, 0]]], axis=0)
    kept = tf.pad(tf.zeros_like(patch), margins, constant_values=255)
    # Several times faster than `tf.where`.
    return tf.bitwise.bitwise_or(tf.bitwise.bitwise_and(image, kept), tf.pad(patch, margins))


def to_uint8(pixels: tf.Tensor) -> tf.Tensor:
    """Round float pixels to the nearest integer, ties to even, and clip them to [0, 255]."""
    return tf.cast(tf.clip_by_value(tf.math.rint(pixels), 0, 255), tf.uint8)


def _contrast(pixels: tf.Tensor, change: tf.Tensor) -> tf.Tensor:
    # In float64, the mean does not depend on how the sum is divided among threads.
    mean = tf.reduce_mean(tf.cast(_gray(pixels), tf.float64))
    return _blend(pixels, tf.cast(mean, tf.float32), change)


def _blend(pixels: tf.Tensor, other: tf.Tensor | float, change: tf.Tensor) -> tf.Tensor:
    factor = tf.maximum(1 + change, 0)
    return tf.clip_by_value(other + factor * (pixels - other), 0, 255)


def _gray(pixels: tf.Tensor) -> tf.Tensor:
    red, green, blue = _GRAY
    return red * pixels[..., 0:1] + green * pixels[..., 1:2] + blue * pixels[..., 2:3]


#: The changes of brightness, contrast, saturation and hue.
_STEPS: tuple[Callable[[tf.Tensor, tf.Tensor], tf.Tensor], ...] = (
    lambda pixels, change: _blend(pixels, 0.0, change),
    _contrast,
    lambda pixels, change: _blend(pixels, _gray(pixels), change),
    lambda pixels, change: tf.clip_by_value(tf.image.adjust_hue(pixels, change), 0, 255),
)
