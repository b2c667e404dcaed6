"""timm's RandAugment and torchvision's TrivialAugment, as pure functions of an image and a seed.

An image is `(height, width, 3)`, uint8, RGB in [0, 255], and so is what becomes of it; a seed is
two integers, int32 or int64.
The operations are Pillow's, level by level, but for a level here and there of moved pixels, which
are computed in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import tensorflow as tf

from keras_resnet.data.augment.colour import along_row, auto_contrast, image_rows

#: Shares of every range that TrivialAugment draws from.
_SHARES = [bin_ / 30 for bin_ in range(31)]


class Sampling(NamedTuple):
    """Interpolation and fill color of operations that move pixels.

    Attributes:
        fill: red, green and blue where the image does not reach.
        cubic: a bool or a scalar of bool: whether pixels are interpolated bicubically or
            bilinearly.
    """

    fill: Sequence[int]
    cubic: Any


def rand_augment(
    image: tf.Tensor,
    seed: tf.Tensor,
    fill: Sequence[int],
    layers: int = 2,
    magnitude: float = 9.0,
    deviation: float = 0.0,
    probability: float = 0.5,
) -> tf.Tensor:
    """Applies up to `layers` random operations of `RAND_AUGMENT`, one after the other.

    timm's variant of Cubuk et al. 2020, with operations that grow with the magnitude
    (`rand-m9-n2-p0.5-mstd0-inc1`). Each operation is drawn from all of them. Its strength is
    negative with probability 1/2 if it has a sign, and pixels are interpolated bilinearly or
    bicubically with the same probability.

    Args:
        image: to start with.
        seed: of all that is drawn.
        fill: red, green and blue where the image does not reach.
        layers: how many operations are drawn.
        magnitude: mean of the magnitudes: 0 for the start of every range, 10 for its end.
        deviation: their standard deviation. What is beyond 0 or 10 is taken as 0 or 10.
        probability: of applying an operation that is drawn.
    """

    def layer(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draws = tf.random.stateless_uniform((4,), seed)
        normal = tf.random.stateless_normal((), tf.random.fold_in(seed, 1))
        # Not divided by 10: TensorFlow's optimizer of graphs would make this of it, eagerly not.
        share = tf.clip_by_value(magnitude + deviation * normal, 0, 10) * 0.1
        how = Sampling(fill, draws[2] < 0.5)
        applied = draws[3] < probability
        return _one_of(RAND_AUGMENT, image, draws[0], draws[1], share, how, applied)

    # A loop, as tracing all operations once takes a second.
    return tf.foldl(layer, tf.random.split(seed, num=layers), initializer=image)


def trivial_augment(image: tf.Tensor, seed: tf.Tensor, fill: Sequence[int]) -> tf.Tensor:
    """Applies one operation of `TRIVIAL_AUGMENT` with one of 31 strengths.

    TrivialAugment (Wide) of Müller and Hutter 2021, as torchvision's, with bilinear interpolation
    as in torchvision's training script.
    """
    draws = tf.random.stateless_uniform((3,), seed)
    share = tf.constant(_SHARES)[tf.cast(draws[2] * len(_SHARES), tf.int32)]
    how = Sampling(fill, False)
    return _one_of(TRIVIAL_AUGMENT, image, draws[0], draws[1], share, how, True)


def _one_of(
    operations: Sequence[Operation],
    image: tf.Tensor,
    choice: tf.Tensor,
    sign: tf.Tensor,
    share: tf.Tensor,
    how: Sampling,
    applied: Any,
) -> tf.Tensor:
    """Applies the operation that `choice`, in [0, 1), stands for; only that one runs."""

    def result(operation: Operation) -> tf.Tensor:
        strength = operation.strength(image, share)
        if operation.signed:
            strength = tf.where(sign < 0.5, -strength, strength)
        return operation.apply(image, strength)

    # Those that move pixels come first, and share a branch, which takes longer to trace than all
    # others.
    moves = [operation for operation in operations if operation.moves]
    index = tf.cast(choice * len(operations), tf.int32)
    branches = [
        lambda: moved(image, tf.stack([result(operation) for operation in moves])[index], how),
        *(partial(result, operation) for operation in operations[len(moves) :]),
        lambda: tf.identity(image),
    ]
    branch = tf.maximum(index - len(moves) + 1, 0)
    return tf.switch_case(tf.where(applied, branch, len(branches) - 1), branches)


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


def solarize_add(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Adds `strength`, a whole number up to 128, to every value below 128."""
    return image + tf.cast(strength, tf.uint8) * tf.cast(image < 128, tf.uint8)


def equalize(image: tf.Tensor) -> tf.Tensor:
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


def _shear_x(image: tf.Tensor, by: tf.Tensor) -> tf.Tensor:
    return _matrix(1, by, 0, 0, 1, 0)


def _shear_y(image: tf.Tensor, by: tf.Tensor) -> tf.Tensor:
    return _matrix(1, 0, 0, by, 1, 0)


def _translation_x(image: tf.Tensor, by: tf.Tensor) -> tf.Tensor:
    return _matrix(1, 0, -by, 0, 1, 0)


def _translation_y(image: tf.Tensor, by: tf.Tensor) -> tf.Tensor:
    return _matrix(1, 0, 0, 0, 1, -by)


def _rotation(image: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
    """Return the matrix of a counterclockwise rotation about the center."""
    angle = degrees * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    size = tf.cast(tf.shape(image), tf.float32)
    x, y = size[1] / 2, size[0] / 2
    return _matrix(cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)


def _matrix(*values: Any) -> tf.Tensor:
    return tf.reshape(tf.stack([tf.cast(value, tf.float32) for value in values]), (2, 3))


@dataclass(frozen=True)
class Operation:
    """An operation on an image, and its range of strengths.

    Args:
        name: the papers' name of it.
        apply: function of an image and a strength, a float32 scalar: what becomes of the image, or
            with `moves`, the matrix that `moved` takes.
        start: the least strength.
        end: the greatest strength.
        signed: whether half of the strengths are negative.
        whole: whether fractions of the distance from `start` are cut off.
        side: the axis whose length `end` is a share of.
        moves: whether pixels are moved. In a table, such operations come first.
    """

    name: str
    apply: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    start: float = 0.0
    end: float = 0.0
    signed: bool = False
    whole: bool = False
    side: int | None = None
    moves: bool = False

    def strength(self, image: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
        """The strength at a share, from 0 to 1, of the range from start to end."""
        distance = share * (self.end - self.start)
        if self.side is not None:
            distance *= tf.cast(tf.shape(image)[self.side], tf.float32)
        if self.whole:
            # A little more, so that 0.7 * 110 is no less than 77 in float32.
            distance = tf.cast(tf.cast(distance * (1 + 1e-6), tf.int32), tf.float32)
        return self.start + distance


def _moving(name: str, apply: Any, end: float, **others: Any) -> Operation:
    return Operation(name, apply, end=end, signed=True, moves=True, **others)


def _blends(end: float) -> tuple[Operation, ...]:
    return (
        Operation("Brightness", lambda image, by: _blend(image, 0.0, by), end=end, signed=True),
        Operation("Color", lambda image, by: _blend(image, _grey(image), by), end=end, signed=True),
        Operation("Contrast", contrast, end=end, signed=True),
        Operation("Sharpness", sharpness, end=end, signed=True),
    )


_AUTO_CONTRAST = Operation("AutoContrast", lambda image, strength: auto_contrast(image))
_EQUALIZE = Operation("Equalize", lambda image, strength: equalize(image))

#: timm's: `_RAND_INCREASING_TRANSFORMS` in timm/data/auto_augment.py.
RAND_AUGMENT = (
    _moving("ShearX", _shear_x, 0.3),
    _moving("ShearY", _shear_y, 0.3),
    _moving("TranslateX", _translation_x, 0.45, side=1),
    _moving("TranslateY", _translation_y, 0.45, side=0),
    _moving("Rotate", _rotation, 30),
    *_blends(0.9),
    Operation("Posterize", posterize, 4, 0, whole=True),
    Operation("Solarize", solarize, 256, 0, whole=True),
    Operation("SolarizeAdd", solarize_add, 0, 110, whole=True),
    Operation("Invert", lambda image, strength: tf.bitwise.invert(image)),
    _AUTO_CONTRAST,
    _EQUALIZE,
)

#: torchvision's: `TrivialAugmentWide` in torchvision/transforms/autoaugment.py. The least strength
#: of solarizing turns white into black there, and so it does here.
TRIVIAL_AUGMENT = (
    _moving("ShearX", _shear_x, 0.99),
    _moving("ShearY", _shear_y, 0.99),
    _moving("TranslateX", _translation_x, 32, whole=True),
    _moving("TranslateY", _translation_y, 32, whole=True),
    _moving("Rotate", _rotation, 135),
    *_blends(0.99),
    Operation("Posterize", posterize, 8, 2),
    Operation("Solarize", solarize, 255, 0),
    Operation("Identity", lambda image, strength: tf.identity(image)),
    _AUTO_CONTRAST,
    _EQUALIZE,
)


def moved(image: tf.Tensor, matrix: tf.Tensor, how: Sampling) -> tf.Tensor:
    """Takes each pixel from where a matrix sends its centre, as Pillow's `AFFINE`.

    `matrix`, `(2, 3)`, float32, has factors of x and y and a constant, for x and for y; the centre
    of the first pixel is at (0.5, 0.5).
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    y = tf.range(tf.cast(height, tf.float32))[:, tf.newaxis] + 0.5
    x = tf.range(tf.cast(width, tf.float32))[tf.newaxis] + 0.5
    # In this order, as TensorFlow's optimizer of graphs would otherwise choose it.
    at_x, at_y = (row[0] * x + row[2] + row[1] * y for row in tf.unstack(matrix))
    if isinstance(how.cubic, bool):
        return _sampled(image, at_x, at_y, how.fill, how.cubic)
    return tf.cond(
        how.cubic,
        lambda: _sampled(image, at_x, at_y, how.fill, True),
        lambda: _sampled(image, at_x, at_y, how.fill, False),
    )


def _sampled(
    image: tf.Tensor, at_x: tf.Tensor, at_y: tf.Tensor, fill: Sequence[int], cubic: bool
) -> tf.Tensor:
    """The colours of an image at points `(height, width)`, interpolated as Pillow does.

    Beyond its border, the image goes on with the pixels there, as far as interpolation needs them;
    points that lie outside of it have the colour `fill`.
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    inside = (at_x >= 0) & (at_x < tf.cast(width, tf.float32))
    inside &= (at_y >= 0) & (at_y < tf.cast(height, tf.float32))
    left, top = tf.floor(at_x - 0.5), tf.floor(at_y - 0.5)
    right, down = (share[..., tf.newaxis] for share in (at_x - 0.5 - left, at_y - 0.5 - top))
    left, top = tf.cast(left, tf.int32), tf.cast(top, tf.int32)
    taps = 4 if cubic else 2
    # Neighbours in a row are gathered at once, and what is outside like any other pixels.
    ends = [image[:, :1]] * (taps // 2), [image[:, -1:]] * (taps // 2)
    wide = tf.concat([*ends[0], image, *ends[1]], axis=1)
    runs = tf.concat([wide[:, tap : tap + width + 1] for tap in range(taps)], axis=2)
    runs = tf.reshape(runs, (-1, 3 * taps))
    runs = tf.concat([runs, tf.constant([[*fill] * taps], tf.uint8)], axis=0)
    rows = []
    for tap in range(1 - taps // 2, 1 + taps // 2):
        row = tf.clip_by_value(top + tap, 0, height - 1)
        index = tf.where(inside, row * (width + 1) + left + 1, height * (width + 1))
        rows.append(tf.cast(tf.gather(runs, index), tf.float32))
    # Broadcasting would take longer.
    columns = tf.split(_between(rows, tf.repeat(down, 3 * taps, axis=2)), taps, axis=2)
    pixels = _between(columns, tf.repeat(right, 3, axis=2))
    # Pillow cuts fractions off.
    return tf.ensure_shape(tf.cast(tf.clip_by_value(pixels, 0, 255), tf.uint8), image.shape)


def _between(values: Sequence[tf.Tensor], share: tf.Tensor) -> tf.Tensor:
    """Interpolates between the two values in the middle, `share` of the way to the second.

    With four values, by Pillow's cubic, with a = -1. Equal values are met exactly.
    """
    if len(values) == 2:
        return values[0] + share * (values[1] - values[0])
    before, first, second, after = values
    third = first - before + after - second
    return first + share * (
        second - before + share * (2 * (before - first) + second - after + share * third)
    )


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
