"""RandAugment and TrivialAugment, as pure functions of an image and a seed.

An image is `(height, width, 3)`, uint8, RGB in [0, 255], and so is what becomes of it; a seed is
two integers, int32 or int64.
The operations are Pillow's, level by level, as the papers and torchvision use them on images;
geometric ones take the nearest pixel, and grey where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import tensorflow as tf

from keras_resnet.data.augment.colour import along_row, auto_contrast, image_rows

#: What geometric operations put where the image does not reach.
FILL = 128

#: Strengths that TrivialAugment draws from.
_BINS = 31


def rand_augment(
    image: tf.Tensor, seed: tf.Tensor, layers: int = 2, magnitude: float = 9.0
) -> tf.Tensor:
    """Applies `layers` random operations of one strength, one after the other.

    Cubuk et al. 2020, with the ranges of torchvision; see `OPERATIONS`. Each operation is drawn
    from all of them, and its strength is negative with probability 1/2 if it has a sign.

    Args:
        image: to start with.
        seed: of all that is drawn.
        layers: how many operations.
        magnitude: 0 for the start of every range, 10 for its end.
    """
    share = tf.constant(magnitude / 10, tf.float32)

    def layer(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draws = tf.random.stateless_uniform((2,), seed)
        return _one_of_all(image, draws[0], draws[1], share, wide=False)

    # A loop, as tracing all operations once takes a second.
    return tf.foldl(layer, tf.random.split(seed, num=layers), initializer=image)


def trivial_augment(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Applies one random operation of a random strength.

    TrivialAugment (Wide) of Müller and Hutter 2021: one of 31 strengths from the whole of each wide
    range; see `OPERATIONS`.
    """
    draws = tf.random.stateless_uniform((3,), seed)
    share = tf.floor(draws[2] * _BINS) / (_BINS - 1)
    return _one_of_all(image, draws[0], draws[1], share, wide=True)


def _one_of_all(
    image: tf.Tensor, choice: tf.Tensor, sign: tf.Tensor, share: tf.Tensor, wide: bool
) -> tf.Tensor:
    """Applies the operation that `choice`, in [0, 1), stands for; only that one runs."""

    def branch(operation: Operation) -> tf.Tensor:
        strength = operation.strength(image, share, wide)
        if operation.signed:
            strength = tf.where(sign < 0.5, -strength, strength)
        return operation.apply(image, strength)

    index = tf.cast(choice * len(OPERATIONS), tf.int32)
    return tf.switch_case(index, [partial(branch, operation) for operation in OPERATIONS])


def translate_x(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Moves an image to the right by `strength` pixels, less their fraction."""
    return _affine(image, (1.0, 0.0, -_whole(strength)), (0.0, 1.0, 0.0))


def translate_y(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Moves an image down by `strength` pixels, less their fraction."""
    return _affine(image, (1.0, 0.0, 0.0), (0.0, 1.0, -_whole(strength)))


def rotate(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Turns an image counterclockwise about its centre by `strength` degrees."""
    angle = strength * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    size = tf.cast(tf.shape(image), tf.float32)
    x, y = size[1] / 2, size[0] / 2
    return _affine(image, (cos, -sin, x - cos * x + sin * y), (sin, cos, y - sin * x - cos * y))


def contrast(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Blends an image with its mean grey by the factor 1 + `strength`."""
    # The sum of whole numbers in float64 is exact, in whatever order.
    mean = tf.floor(tf.reduce_mean(tf.cast(_grey(image), tf.float64)) + 0.5)
    return _blend(image, tf.cast(mean, tf.float32), strength)


def sharpness(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Blends an image with its smoothed self by the factor 1 + `strength`.

    Smoothed is every pixel that has eight neighbours, whose weights are 1, to its own 5. The others
    stay as they are.
    """
    pixels = tf.cast(image, tf.float32)
    height, width = tf.unstack(tf.shape(image)[:2])
    padded = tf.pad(pixels, [[1, 1], [1, 1], [0, 0]])
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * pixels
    y, x = tf.range(height)[:, tf.newaxis], tf.range(width)[tf.newaxis]
    inside = (y > 0) & (y < height - 1) & (x > 0) & (x < width - 1)
    # Thirteenths are never halves: however these are rounded, the result is Pillow's.
    change = tf.math.rint(total / 13) - pixels
    smooth = pixels + tf.cast(inside[..., tf.newaxis], tf.float32) * change
    return _blend(image, smooth, strength)


def posterize(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Keeps the upper `strength` bits of every value, rounded to a whole number."""
    lost = 8 - tf.cast(tf.round(strength), tf.int32)
    mask = tf.cast(256 - tf.bitwise.left_shift(1, lost), tf.uint8)
    return tf.bitwise.bitwise_and(image, mask)


def solarize(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Inverts every value that is not below `strength`."""
    inverted = tf.cast(tf.cast(image, tf.float32) >= strength, tf.uint8)
    # Several times faster than `tf.where`.
    return tf.bitwise.bitwise_xor(image, 255 * inverted)


def equalize(image: tf.Tensor, strength: tf.Tensor | None = None) -> tf.Tensor:
    """Makes all levels of every channel about equally frequent, as Pillow's `ImageOps.equalize`."""
    levels = tf.cast(image_rows(image), tf.int32) + along_row(tf.constant([0, 256, 512]), image)
    # What `tf.math.bincount` calls, without its passes over the data that look for the greatest.
    counts = tf.raw_ops.DenseBincount(
        input=tf.reshape(levels, [-1]), size=768, weights=tf.constant([], tf.int32)
    )
    counts = tf.reshape(counts, (3, 256))
    highest = tf.reduce_max(tf.where(counts > 0, tf.range(256), 0), axis=1, keepdims=True)
    at_highest = tf.gather(counts, highest, batch_dims=1)
    step = (tf.reduce_sum(counts, axis=1, keepdims=True) - at_highest) // 255
    below = tf.cumsum(counts, axis=1, exclusive=True)
    table = tf.minimum((below + step // 2) // tf.maximum(step, 1), 255)
    # Few pixels, or one level alone, stay as they are.
    table = tf.cast(tf.where(step > 0, table, tf.range(256)), tf.uint8)
    return tf.reshape(tf.gather(tf.reshape(table, [-1]), levels), tf.shape(image))


@dataclass(frozen=True)
class Operation:
    """What RandAugment and TrivialAugment do to an image, and how strongly.

    Args:
        name: the papers' name of it.
        apply: function of an image and a strength, a float32 scalar.
        signed: whether half of the strengths are negative.
        start: the strength at magnitude 0.
        end: the strength at magnitude 10 of RandAugment.
        wide: the greatest strength of TrivialAugment.
        side: the axis whose length `end`, but not `wide`, is a share of.
    """

    name: str
    apply: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    signed: bool = False
    start: float = 0.0
    end: float = 0.0
    wide: float = 0.0
    side: int | None = None

    def strength(self, image: tf.Tensor, share: tf.Tensor, wide: bool) -> tf.Tensor:
        """The strength at a share, from 0 to 1, of the range from start to end."""
        value = self.start + share * ((self.wide if wide else self.end) - self.start)
        if self.side is None or wide:
            return value
        return value * tf.cast(tf.shape(image)[self.side], tf.float32)


#: The operations and ranges of torchvision's `RandAugment` and `TrivialAugmentWide`
#: (torchvision/transforms/autoaugment.py), but that solarizing starts at 256, as in Müller and
#: Hutter's automl/trivialaugment: at 255, the least strength would turn white into black.
OPERATIONS = (
    Operation("Identity", lambda image, strength: tf.identity(image)),
    Operation(
        "ShearX", lambda image, by: _affine(image, (1, by, 0), (0, 1, 0)), True, 0, 0.3, 0.99
    ),
    Operation(
        "ShearY", lambda image, by: _affine(image, (1, 0, 0), (by, 1, 0)), True, 0, 0.3, 0.99
    ),
    Operation("TranslateX", translate_x, True, 0, 150 / 331, 32, side=1),
    Operation("TranslateY", translate_y, True, 0, 150 / 331, 32, side=0),
    Operation("Rotate", rotate, True, 0, 30, 135),
    Operation("Brightness", lambda image, by: _blend(image, 0.0, by), True, 0, 0.9, 0.99),
    Operation("Color", lambda image, by: _blend(image, _grey(image), by), True, 0, 0.9, 0.99),
    Operation("Contrast", contrast, True, 0, 0.9, 0.99),
    Operation("Sharpness", sharpness, True, 0, 0.9, 0.99),
    Operation("Posterize", posterize, False, 8, 4, 2),
    Operation("Solarize", solarize, False, 256, 0, 0),
    Operation("AutoContrast", lambda image, strength: auto_contrast(image)),
    Operation("Equalize", equalize),
)


def _affine(
    image: tf.Tensor, to_x: tuple[tf.Tensor, ...], to_y: tuple[tf.Tensor, ...]
) -> tf.Tensor:
    """Takes each pixel from where the matrix sends its centre, as Pillow's `AFFINE` and `NEAREST`.

    `to_x` and `to_y` are factors of x and y, and a constant; the centre of the first pixel is at
    (0.5, 0.5).
    """
    rows = []
    for factor_x, factor_y, constant in (to_x, to_y):
        # TensorFlow has the centre of the first pixel at (0, 0).
        rows += [factor_x, factor_y, constant + (factor_x + factor_y - 1) / 2]
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=[[tf.cast(value, tf.float32) for value in (*rows, 0.0, 0.0)]],
        output_shape=tf.shape(image)[:2],
        fill_value=tf.constant(FILL, tf.float32),
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )
    return tf.ensure_shape(moved[0], image.shape)


def _blend(image: tf.Tensor, other: tf.Tensor | float, strength: tf.Tensor) -> tf.Tensor:
    """Pillow's `Image.blend(other, image, 1 + strength)`, which cuts fractions off."""
    change = tf.cast(image, tf.float32) - other
    return tf.cast(tf.clip_by_value(other + (1 + strength) * change, 0, 255), tf.uint8)


def _grey(image: tf.Tensor) -> tf.Tensor:
    """Pillow's `convert("L")`: `(height, width, 1)`, float32, whole numbers."""
    # Sums of 65536ths stay below 2^24, and so float32 has them exactly.
    pixels = tf.cast(image, tf.float32)
    red, green, blue = pixels[..., 0:1], pixels[..., 1:2], pixels[..., 2:3]
    return tf.floor((19595 * red + 38470 * green + 7471 * blue + 32768) / 65536)


def _whole(value: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.cast(value, tf.int32), tf.float32)
