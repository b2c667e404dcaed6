"""Changes of an image's colours, as pure functions of the image and a seed.

An image is `(height, width, 3)`, uint8, RGB in [0, 255], and so is what becomes of it; a seed is
two integers, int32 or int64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import tensorflow as tf

#: Share of red, green and blue in grey (ITU-R BT.601).
_GREY = (0.299, 0.587, 0.114)

#: Deviations of ImageNet's colours along their principal components, and those components in
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
    """Changes brightness, contrast, saturation and hue in a random order, as torchvision does.

    The first three blend the image with black, with its mean grey and with its grey self, each by a
    factor of its own; what leaves [0, 255] is clipped at once, as in Pillow's `ImageEnhance`. The
    values are rounded only at the end, where Pillow cuts fractions off after every step.

    Args:
        image: to start with.
        seed: of all that is drawn.
        brightness: the factor is uniform in [1 - brightness, 1 + brightness], but not negative.
            With 0, this step is left out, as are the others.
        contrast: likewise.
        saturation: likewise.
        hue: the hue turns by a share of a full circle, uniform in [-hue, hue]; at most 0.5.
    """
    draws = tf.random.stateless_uniform((2, 4), seed)
    signed = 2 * draws[0] - 1
    greatest = (brightness, contrast, saturation, hue)
    chosen = [index for index, most in enumerate(greatest) if most > 0]
    pixels = tf.cast(image, tf.float32)
    order = tf.argsort(tf.gather(draws[1], tf.constant(chosen, tf.int32)))
    for position in range(len(chosen)):
        steps = [
            partial(_STEPS[index], pixels, greatest[index] * signed[index]) for index in chosen
        ]
        pixels = tf.switch_case(order[position], steps)
    return to_uint8(pixels)


def lighting(image: tf.Tensor, seed: tf.Tensor, deviation: float) -> tf.Tensor:
    """Shifts all pixels by one random colour along ImageNet's principal colours.

    Krizhevsky et al. 2012, section 4.1, with the constants of fb.resnet.torch. Sums are rounded and
    clipped to [0, 255], as the image stays uint8. `deviation` is the standard deviation of the
    factors of the three components; 0.1 in the paper.
    """
    factors = tf.random.stateless_normal((3,), seed, stddev=deviation)
    shift = 255 * tf.reduce_sum(tf.constant(_EIGENVECTORS) * factors * _EIGENVALUES, axis=1)
    pixels = tf.cast(image_rows(image), tf.float32) + along_row(shift, image)
    return tf.reshape(to_uint8(pixels), tf.shape(image))


def random_auto_contrast(image: tf.Tensor, seed: tf.Tensor, probability: float) -> tf.Tensor:
    """Applies `auto_contrast` to an image with a probability in [0, 1]."""
    chosen = tf.random.stateless_uniform((), seed) < probability
    return tf.cond(chosen, lambda: auto_contrast(image), lambda: tf.identity(image))


def auto_contrast(image: tf.Tensor) -> tf.Tensor:
    """Stretches every channel so that it reaches from 0 to 255.

    Equal to Pillow's `ImageOps.autocontrast`, level by level. A channel with one level stays as it
    is.
    """
    # float64, in Pillow's order of operations: it cuts fractions off, so that an error in the last
    # place can change a level.
    low = tf.cast(tf.reduce_min(image, axis=(0, 1)), tf.float64)
    high = tf.cast(tf.reduce_max(image, axis=(0, 1)), tf.float64)
    varied = tf.cast(high > low, tf.float64)
    scale = varied * 255 / tf.maximum(high - low, 1) + (1 - varied)
    offset = -low * scale * varied
    rows = tf.cast(image_rows(image), tf.float64)
    stretched = rows * along_row(scale, image) + along_row(offset, image)
    return tf.reshape(tf.cast(stretched, tf.uint8), tf.shape(image))


def image_rows(image: tf.Tensor) -> tf.Tensor:
    """Reshapes `(height, width, 3)` to `(height, width * 3)`, for use with `along_row`."""
    return tf.reshape(image, (-1, 3 * tf.shape(image)[1]))


def along_row(values: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """Repeats one value per channel, `(3,)`, for a row of pixels, `(width * 3,)`.

    TensorFlow broadcasts these several times faster than three values to an image.
    """
    return tf.tile(values, tf.shape(image)[1:2])


def paste(image: tf.Tensor, patch: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """Overwrites a rectangle of an image with `patch`; `start` is its upper left corner, int32."""
    margins = tf.stack([start, tf.shape(image)[:2] - start - tf.shape(patch)[:2]], axis=1)
    margins = tf.concat([margins, [[0, 0]]], axis=0)
    kept = tf.pad(tf.zeros_like(patch), margins, constant_values=255)
    # Several times faster than `tf.where`.
    return tf.bitwise.bitwise_or(tf.bitwise.bitwise_and(image, kept), tf.pad(patch, margins))


def to_uint8(pixels: tf.Tensor) -> tf.Tensor:
    """Rounds float pixels to the nearest level, halves to the even one, and clips to [0, 255]."""
    return tf.cast(tf.clip_by_value(tf.math.rint(pixels), 0, 255), tf.uint8)


def _contrast(pixels: tf.Tensor, change: tf.Tensor) -> tf.Tensor:
    # float64, so that the mean does not depend on how the sum is split among threads.
    mean = tf.reduce_mean(tf.cast(_grey(pixels), tf.float64))
    return _blend(pixels, tf.cast(mean, tf.float32), change)


def _blend(pixels: tf.Tensor, other: tf.Tensor | float, change: tf.Tensor) -> tf.Tensor:
    factor = tf.maximum(1 + change, 0)
    return tf.clip_by_value(other + factor * (pixels - other), 0, 255)


def _grey(pixels: tf.Tensor) -> tf.Tensor:
    red, green, blue = _GREY
    return red * pixels[..., 0:1] + green * pixels[..., 1:2] + blue * pixels[..., 2:3]


#: Brightness, contrast, saturation, hue.
_STEPS: tuple[Callable[[tf.Tensor, tf.Tensor], tf.Tensor], ...] = (
    lambda pixels, change: _blend(pixels, 0.0, change),
    _contrast,
    lambda pixels, change: _blend(pixels, _grey(pixels), change),
    lambda pixels, change: tf.clip_by_value(tf.image.adjust_hue(pixels, change), 0, 255),
)
