"""Transforms of encoded or decoded images into training and evaluation images.

Everything is a pure function of the image and a seed, so that runs can be repeated and resumed,
and so that the images of a batch differ. What is drawn is drawn for several images at once, each
from its own seed, as many small tensors would cost more time than decoding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from keras_resnet.data.augment import colour
from keras_resnet.data.augment.auto_augment import rand_augment, trivial_augment
from keras_resnet.data.augment.erasing import random_erasing
from keras_resnet.data.augment.windows import Cuts, cut_jpeg, cut_pixels, cuts_of
from keras_resnet.data.config import Augmentation
from keras_resnet.data.reading import JPEG, PATH, PIXELS
from keras_resnet.images.protocol import EvalProtocol, EvalTransform

#: How often a window is drawn before the largest one in the middle is taken, as in torchvision.
_ATTEMPTS = 10

#: `short_side` is meant for networks of this size.
_PAPER_SIZE = 224


class RawImage(NamedTuple):
    """An image as it was read, or with a first axis, those of a chunk.

    Attributes:
        data: string: pixels, the bytes of a JPEG, or the path of one.
        shape: `(2,)`, int32: height and width.
        kind: int32: which of these; see `keras_resnet.data.reading`.
    """

    data: Any
    shape: Any
    kind: Any


class Variation(NamedTuple):
    """The random draws for an image, or with a first axis, for the images of a chunk.

    Attributes:
        seed: `(2,)`, int32, for what is not drawn yet.
        flip: bool.
        cut: what is cut out; nothing where images are prepared as for evaluation.
    """

    seed: Any
    flip: Any
    cut: Cuts | tuple[()]


def draw(shapes: Any, encoded: Any, seeds: Any, size: int, how: Augmentation) -> Variation:
    """Draws how images are cut and flipped.

    Args:
        shapes: `(n, 2)`, int32: their heights and widths; n is static.
        encoded: `(n,)`, bool: whether they are JPEGs.
        seeds: `(n, 2)`, int32: one pair per image, epoch and copy.
        size: height and width of the images.
        how: which variations.
    """
    # One generator per image; everything after that, for all of them together.
    draws = tf.stack(
        [tf.random.stateless_uniform([4 * _ATTEMPTS + 1], seed) for seed in tf.unstack(seeds)]
    )
    flip, draws = draws[:, 0] < how.flip, draws[:, 1:]
    if how.crop not in ("inception", "he2015"):
        return Variation(seeds, flip, ())
    floats = tf.cast(shapes, tf.float32)
    if how.crop == "inception":
        boxes = inception_boxes(floats, tf.reshape(draws, [-1, 4, _ATTEMPTS]), how)
    else:
        boxes = he2015_boxes(floats, draws[:, :3], size, how)
    context = how.crop == "he2015"
    cuts = cuts_of(boxes, shapes, encoded, size, antialias=how.antialias, context=context)
    return Variation(seeds, flip, cuts)


def training_image(
    raw: RawImage | tf.Tensor, drawn: Variation, protocol: EvalProtocol, how: Augmentation
) -> Any:
    """Makes a training image `(size, size, 3)`, uint8, RGB.

    Args:
        raw: what was read, or pixels `(height, width, 3)`, uint8, RGB.
        drawn: what `draw` drew for it.
        protocol: gives the size, and prepares images that are not cut at random.
        how: which variations.
    """
    if not drawn.cut:
        return vary(evaluation_image(raw, protocol), drawn, how)
    cut, size = drawn.cut, protocol.size
    image = _of_kind(
        raw,
        lambda pixels: cut_pixels(pixels, cut, size, how.antialias),
        lambda data: cut_jpeg(data, cut, size, how.antialias),
    )
    return vary(image, drawn, how)


def evaluation_image(raw: RawImage | tf.Tensor, protocol: EvalProtocol) -> Any:
    """Makes an evaluation image `(size, size, 3)`, uint8, RGB; `raw` as in `training_image`.

    JPEGs are decoded in full, with the exact inverse DCT, as Pillow decodes them. Pixels that have
    the size already stay as they are, if the protocol resizes to it.
    """
    pixels = _of_kind(
        raw,
        lambda pixels: pixels,
        lambda data: tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"),
    )
    size, resized = protocol.size, EvalTransform(protocol).graph
    if protocol.resize != size:
        return resized(pixels)
    if pixels.shape[:2].is_fully_defined():
        return pixels if pixels.shape[:2] == (size, size) else resized(pixels)
    return tf.cond(
        tf.reduce_all(tf.shape(pixels)[:2] == size),
        lambda: tf.ensure_shape(pixels, (size, size, 3)),
        lambda: resized(pixels),
    )


def vary(image: Any, drawn: Variation, how: Augmentation) -> Any:
    """Everything after cutting and resizing: `(size, size, 3)`, uint8, like `image`."""
    shape = image.shape

    def seed(step: int) -> Any:
        """Each step has a seed of its own: switching one off leaves the others as they were."""
        return tf.random.fold_in(drawn.seed, step)

    if how.crop == "pad":
        image = pad_and_crop(image, seed(1), how.padding, how.fill)
    if how.flip:
        # A slice with a step of -1 does the same in ten times the time.
        image = tf.cond(drawn.flip, lambda: tf.reverse(image, axis=[1]), lambda: image)
    if how.auto == "timm-randaugment":
        strength = how.auto_magnitude, how.auto_deviation, how.auto_probability
        image = rand_augment(image, seed(2), how.fill, how.auto_layers, *strength)
    elif how.auto == "trivialaugment-wide":
        image = trivial_augment(image, seed(2), how.fill)
    if how.auto_contrast:
        image = colour.random_auto_contrast(image, seed(3), how.auto_contrast)
    if how.brightness or how.contrast or how.saturation or how.hue:
        image = colour.color_jitter(
            image, seed(4), how.brightness, how.contrast, how.saturation, how.hue
        )
    if how.lighting:
        image = colour.lighting(image, seed(5), how.lighting)
    if how.erasing:
        image = random_erasing(image, seed(6), how.erasing)
    return tf.ensure_shape(image, shape)


def inception_boxes(shapes: Any, draws: Any, how: Augmentation) -> Any:
    """Windows of the `area` and `aspect` of `how`; see `Augmentation`.

    Windows that stick out are drawn again; after ten of those, the largest one in the middle of a
    permitted aspect ratio is taken.

    Args:
        shapes: `(n, 2)`, float32: heights and widths before.
        draws: `(n, 4, 10)`, uniform in [0, 1): area, logarithm of the aspect ratio, row and column.
        how: the ranges.

    Returns:
        `(n, 4)`, float32, whole numbers: top, left, height, width.
    """
    height, width = shapes[:, :1], shapes[:, 1:]
    areas = (how.area[0] + draws[:, 0] * (how.area[1] - how.area[0])) * height * width
    low, high = (math.log(ratio) for ratio in how.aspect)
    aspects = tf.exp(low + draws[:, 1] * (high - low))
    rows, columns = tf.round(tf.sqrt(areas / aspects)), tf.round(tf.sqrt(areas * aspects))
    fits = (rows >= 1) & (columns >= 1) & (rows <= height) & (columns <= width)
    first = tf.argmax(fits, axis=1)

    def chosen(values: Any) -> Any:
        return tf.gather(values, first, axis=1, batch_dims=1)[:, tf.newaxis]

    largest = [
        tf.minimum(height, tf.round(width / how.aspect[0])),
        tf.minimum(width, tf.round(height * how.aspect[1])),
    ]
    found = tf.reduce_any(fits, axis=1, keepdims=True)
    sides = tf.where(
        found, tf.concat([chosen(rows), chosen(columns)], 1), tf.concat(largest, axis=1)
    )
    free = shapes - sides
    places = tf.concat([chosen(draws[:, 2]), chosen(draws[:, 3])], axis=1)
    # Any of the free + 1 places with equal probability.
    drawn = tf.minimum(tf.floor(places * (free + 1)), free)
    return tf.concat([tf.where(found, drawn, tf.floor(free / 2)), sides], axis=1)


def he2015_boxes(shapes: Any, draws: Any, size: int, how: Augmentation) -> Any:
    """Squares of the scales of `how.short_side`; see `Augmentation`.

    Args:
        shapes: `(n, 2)`, float32: heights and widths before.
        draws: `(n, 3)`, uniform in [0, 1): length of the short side, row and column.
        size: height and width of the images.
        how: the range of lengths.

    Returns:
        `(n, 4)`, float32, in pixels before resizing: what becomes a crop of `size` pixels when the
        short side is resized to the length that was drawn.
    """
    low, high = (round(side * size / _PAPER_SIZE) for side in how.short_side)
    # Each whole length and each whole place with equal probability.
    short = tf.minimum(low + tf.floor(draws[:, :1] * float(high - low + 1)), float(high))
    pixels = tf.reduce_min(shapes, axis=1, keepdims=True) / short
    free = tf.maximum(tf.floor(shapes / pixels + 1e-3) - float(size), 0.0)
    corner = tf.minimum(tf.floor(draws[:, 1:] * (free + 1)), free) * pixels
    return tf.concat([corner, tf.tile(float(size) * pixels, [1, 2])], axis=1)


def pad_and_crop(image: Any, seed: Any, padding: int = 4, fill: Sequence[int] = (0, 0, 0)) -> Any:
    """Pads an image with `padding` pixels on each side and crops its own size out at random.

    He et al. 2015, section 4.2 (CIFAR). `image`: `(height, width, 3)`, uint8; `seed`: two integers;
    `fill`: the colour of the padding.
    """
    colour = tf.constant(fill, tf.uint8)
    # What is not black is padded with zeros as its difference to the colour, modulo 256.
    padded = tf.pad(image - colour, [[padding, padding], [padding, padding], [0, 0]]) + colour
    return tf.image.stateless_random_crop(padded, tf.shape(image), seed)


def _of_kind(
    raw: RawImage | tf.Tensor, of_pixels: Callable[[Any], Any], of_jpeg: Callable[[Any], Any]
) -> Any:
    """Applies what suits the data of an image."""
    if not isinstance(raw, RawImage):
        return of_pixels(raw)

    def decode_pixels() -> Any:
        height, width = tf.unstack(raw.shape)
        return of_pixels(tf.reshape(tf.io.decode_raw(raw.data, tf.uint8), [height, width, 3]))

    branches = {
        PIXELS: decode_pixels,
        JPEG: lambda: of_jpeg(raw.data),
        PATH: lambda: of_jpeg(tf.io.read_file(raw.data)),
    }
    return tf.switch_case(raw.kind, branches)
