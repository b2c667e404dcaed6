"""timm's RandAugment and torchvision's TrivialAugment, as pure functions of an image and a seed.

Images, given and returned, are `(height, width, 3)`, uint8, RGB in [0, 255]; a seed is two
integers, int32 or int64.

The operations return exactly the pixels of Pillow's, except that those that move pixels compute in
float32, so that single values may differ by 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import tensorflow as tf

from keras_resnet.data.augment.color import along_row, auto_contrast, image_rows

#: The positions in an operation's range of strengths that TrivialAugment draws from.
_SHARES = [bin_ / 30 for bin_ in range(31)]


class Sampling(NamedTuple):
    """Interpolation and fill color of operations that move pixels.

    Attributes:
        fill: color `(red, green, blue)` of points outside the image.
        cubic: a Python bool or a bool scalar: whether the interpolation is bicubic rather than
            bilinear.
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
    """Apply up to `layers` random operations of `RAND_AUGMENT` in succession.

    This is timm's variant of Cubuk et al. 2020, whose operations get stronger with the magnitude
    (`rand-m9-n2-p0.5-mstd0-inc1`). Operations are drawn with replacement. The strength of a signed
    operation is negative with probability 1/2; the interpolation is bilinear or bicubic with equal
    probability.

    Args:
        image: the image.
        seed: the seed of all random values.
        fill: color `(red, green, blue)` of points outside the image.
        layers: number of operations to draw.
        magnitude: mean magnitude, 0 to 10: the start and the end of an operation's range of
            strengths.
        deviation: standard deviation of the magnitudes, which are clipped to [0, 10].
        probability: probability of applying a drawn operation.
    """

    def layer(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draws = tf.random.stateless_uniform((4,), seed)
        normal = tf.random.stateless_normal((), tf.random.fold_in(seed, 1))
        # Not `/ 10`: TensorFlow rewrites that to `* 0.1` in graphs but not in eager execution.
        share = tf.clip_by_value(magnitude + deviation * normal, 0, 10) * 0.1
        sampling = Sampling(fill, draws[2] < 0.5)
        applied = draws[3] < probability
        return _apply_one(RAND_AUGMENT, image, draws[0], draws[1], share, sampling, applied)

    # A TensorFlow loop, because tracing all operations takes a second per layer.
    return tf.foldl(layer, tf.random.split(seed, num=layers), initializer=image)


def trivial_augment(image: tf.Tensor, seed: tf.Tensor, fill: Sequence[int]) -> tf.Tensor:
    """Apply one random operation of `TRIVIAL_AUGMENT` with one of 31 strengths.

    This is TrivialAugment (Wide) of Müller and Hutter 2021 as in torchvision, with the bilinear
    interpolation of torchvision's training script.
    """
    draws = tf.random.stateless_uniform((3,), seed)
    share = tf.constant(_SHARES)[tf.cast(draws[2] * len(_SHARES), tf.int32)]
    sampling = Sampling(fill, False)
    return _apply_one(TRIVIAL_AUGMENT, image, draws[0], draws[1], share, sampling, True)


def _apply_one(
    operations: Sequence[Operation],
    image: tf.Tensor,
    choice: tf.Tensor,
    sign: tf.Tensor,
    share: tf.Tensor,
    sampling: Sampling,
    applied: Any,
) -> tf.Tensor:
    """Apply the operation that `choice`, in [0, 1), selects; no other operation is computed."""

    def result(operation: Operation) -> tf.Tensor:
        strength = operation.strength(image, share)
        if operation.signed:
            strength = tf.where(sign < 0.5, -strength, strength)
        return operation.apply(image, strength)

    # The operations that move pixels come first in the table. They share one branch, because it
    # takes longer to trace than all other branches together.
    moves = [operation for operation in operations if operation.moves]
    index = tf.cast(choice * len(operations), tf.int32)
    branches = [
        lambda: moved(image, tf.stack([result(operation) for operation in moves])[index], sampling),
        *(partial(result, operation) for operation in operations[len(moves) :]),
        lambda: tf.identity(image),
    ]
    branch = tf.maximum(index - len(moves) + 1, 0)
    return tf.switch_case(tf.where(applied, branch, len(branches) - 1), branches)


def contrast(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Blend an image with its mean gray by the factor 1 + `strength`."""
    # Sums of integers are exact in float64, in any order.
    mean = tf.floor(tf.reduce_mean(tf.cast(_gray(image), tf.float64)) + 0.5)
    return _blend(image, tf.cast(mean, tf.float32), strength)


def sharpness(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Blend an image with a smoothed copy of itself by the factor 1 + `strength`.

    The kernel of the smoothing has the weight 5 at its center and 1 elsewhere. Pixels at the border
    of the image are not smoothed.
    """
    pixels = tf.cast(image, tf.float32)
    height, width = tf.unstack(tf.shape(image)[:2])
    padded = tf.pad(pixels, [[1, 1], [1, 1], [0, 0]])
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * pixels
    y, x = tf.range(height)[:, tf.newaxis], tf.range(width)[tf.newaxis]
    inside = (y > 0) & (y < height - 1) & (x > 0) & (x < width - 1)
    # A multiple of 1/13 is never halfway between integers, so the rounding mode does not matter.
    change = tf.math.rint(total / 13) - pixels
    smooth = pixels + tf.cast(inside[..., tf.newaxis], tf.float32) * change
    return _blend(image, smooth, strength)


def posterize(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Keep the highest `strength` bits of every value; `strength` is rounded to an integer."""
    lost = 8 - tf.cast(tf.round(strength), tf.int32)
    mask = tf.cast(256 - tf.bitwise.left_shift(1, lost), tf.uint8)
    return tf.bitwise.bitwise_and(image, mask)


def solarize(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Invert every value of at least `strength`."""
    inverted = tf.cast(tf.cast(image, tf.float32) >= strength, tf.uint8)
    # Several times faster than `tf.where`.
    return tf.bitwise.bitwise_xor(image, 255 * inverted)


def solarize_add(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Add `strength`, an integer up to 128, to every value below 128."""
    return image + tf.cast(strength, tf.uint8) * tf.cast(image < 128, tf.uint8)


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Equalize the histogram of every channel, as Pillow's `ImageOps.equalize` does."""
    levels = tf.cast(image_rows(image), tf.int32) + along_row(tf.constant([0, 256, 512]), image)
    # The operation behind `tf.math.bincount`, which also searches the data for its maximum.
    counts = tf.raw_ops.DenseBincount(
        input=tf.reshape(levels, [-1]), size=768, weights=tf.constant([], tf.int32)
    )
    counts = tf.reshape(counts, (3, 256))
    highest = tf.reduce_max(tf.where(counts > 0, tf.range(256), 0), axis=1, keepdims=True)
    at_highest = tf.gather(counts, highest, batch_dims=1)
    step = (tf.reduce_sum(counts, axis=1, keepdims=True) - at_highest) // 255
    below = tf.cumsum(counts, axis=1, exclusive=True)
    table = tf.minimum((below + step // 2) // tf.maximum(step, 1), 255)
    # Channels of few pixels or of a single level do not change.
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
        name: the name in the papers.
        apply: function of an image and a strength, a float32 scalar. Returns the new image, or with
            `moves` the matrix for `moved`.
        start: the strength at the magnitude 0.
        end: the strength at the largest magnitude.
        signed: whether the strength is negative with probability 1/2.
        whole: whether the distance from `start` is truncated to an integer.
        side: axis of the image whose length multiplies the distance from `start`; None for none.
        moves: whether the operation moves pixels. Such operations come first in a table.
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
        """Return the strength at a position in the range, from 0 for `start` to 1 for `end`."""
        distance = share * (self.end - self.start)
        if self.side is not None:
            distance *= tf.cast(tf.shape(image)[self.side], tf.float32)
        if self.whole:
            # Increased slightly, so that 0.7 * 110 in float32 is truncated to 77 and not to 76.
            distance = tf.cast(tf.cast(distance * (1 + 1e-6), tf.int32), tf.float32)
        return self.start + distance


def _moving(name: str, apply: Any, end: float, **others: Any) -> Operation:
    return Operation(name, apply, end=end, signed=True, moves=True, **others)


def _blends(end: float) -> tuple[Operation, ...]:
    return (
        Operation("Brightness", lambda image, by: _blend(image, 0.0, by), end=end, signed=True),
        Operation("Color", lambda image, by: _blend(image, _gray(image), by), end=end, signed=True),
        Operation("Contrast", contrast, end=end, signed=True),
        Operation("Sharpness", sharpness, end=end, signed=True),
    )


_AUTO_CONTRAST = Operation("AutoContrast", lambda image, strength: auto_contrast(image))
_EQUALIZE = Operation("Equalize", lambda image, strength: equalize(image))

#: `_RAND_INCREASING_TRANSFORMS` in timm/data/auto_augment.py.
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

#: `TrivialAugmentWide` in torchvision/transforms/autoaugment.py. As there, solarizing inverts white
#: even at the smallest strength.
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


def moved(image: tf.Tensor, matrix: tf.Tensor, sampling: Sampling) -> tf.Tensor:
    """Apply an affine transform, as Pillow's `Image.transform` with `AFFINE` does.

    `matrix`, `(2, 3)`, float32, maps the center `(x, y, 1)` of each new pixel to the point of the
    image where its color is sampled. The center of the first pixel is at (0.5, 0.5).
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    y = tf.range(tf.cast(height, tf.float32))[:, tf.newaxis] + 0.5
    x = tf.range(tf.cast(width, tf.float32))[tf.newaxis] + 0.5
    # TensorFlow reorders sums in graphs; this order is the one that it chooses.
    at_x, at_y = (row[0] * x + row[2] + row[1] * y for row in tf.unstack(matrix))
    if isinstance(sampling.cubic, bool):
        return _sampled(image, at_x, at_y, sampling.fill, sampling.cubic)
    return tf.cond(
        sampling.cubic,
        lambda: _sampled(image, at_x, at_y, sampling.fill, True),
        lambda: _sampled(image, at_x, at_y, sampling.fill, False),
    )


def _sampled(
    image: tf.Tensor, at_x: tf.Tensor, at_y: tf.Tensor, fill: Sequence[int], cubic: bool
) -> tf.Tensor:
    """Return the colors of an image at points `(height, width)`, interpolated as Pillow does.

    Points outside the image get the color `fill`. For points inside, the interpolation repeats the
    pixels at the border of the image where it needs pixels beyond it.
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    inside = (at_x >= 0) & (at_x < tf.cast(width, tf.float32))
    inside &= (at_y >= 0) & (at_y < tf.cast(height, tf.float32))
    left, top = tf.floor(at_x - 0.5), tf.floor(at_y - 0.5)
    right, down = (share[..., tf.newaxis] for share in (at_x - 0.5 - left, at_y - 0.5 - top))
    left, top = tf.cast(left, tf.int32), tf.cast(top, tf.int32)
    taps = 4 if cubic else 2
    # Adjacent pixels of a row are gathered together; the fill color is one more set of pixels.
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
    # Repeating is faster than broadcasting.
    columns = tf.split(_between(rows, tf.repeat(down, 3 * taps, axis=2)), taps, axis=2)
    pixels = _between(columns, tf.repeat(right, 3, axis=2))
    # The cast truncates, as Pillow does.
    return tf.ensure_shape(tf.cast(tf.clip_by_value(pixels, 0, 255), tf.uint8), image.shape)


def _between(values: Sequence[tf.Tensor], share: tf.Tensor) -> tf.Tensor:
    """Interpolate between the two middle values, at the position `share` in [0, 1].

    Two values are interpolated linearly, four values by Pillow's cubic kernel with a = -1. The
    result is exact where all values are equal.
    """
    if len(values) == 2:
        return values[0] + share * (values[1] - values[0])
    before, first, second, after = values
    third = first - before + after - second
    return first + share * (
        second - before + share * (2 * (before - first) + second - after + share * third)
    )


def _blend(image: tf.Tensor, other: tf.Tensor | float, strength: tf.Tensor) -> tf.Tensor:
    """Do what Pillow's `Image.blend(other, image, 1 + strength)` does, truncation included."""
    change = tf.cast(image, tf.float32) - other
    return tf.cast(tf.clip_by_value(other + (1 + strength) * change, 0, 255), tf.uint8)


def _gray(image: tf.Tensor) -> tf.Tensor:
    """Do what Pillow's `convert("L")` does; return `(height, width, 1)`, float32 integers."""
    # The sums stay below 2^24, so float32 holds them exactly.
    pixels = tf.cast(image, tf.float32)
    red, green, blue = pixels[..., 0:1], pixels[..., 1:2], pixels[..., 2:3]
    return tf.floor((19595 * red + 38470 * green + 7471 * blue + 32768) / 65536)
