"""Transforms from encoded or decoded images to training and evaluation images.

All transforms are pure functions of an image and its seed, so that runs can be repeated and
resumed. Random values are drawn for the images of a chunk together, as many small tensors would
take more time than decoding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from keras_resnet.data.augment import color
from keras_resnet.data.augment.auto_augment import rand_augment, trivial_augment
from keras_resnet.data.augment.erasing import random_erasing
from keras_resnet.data.augment.windows import Cuts, cut_jpeg, cut_pixels, cuts_of
from keras_resnet.data.config import Augmentation
from keras_resnet.data.reading import JPEG, PATH, PIXELS
from keras_resnet.images.protocol import EvalProtocol, EvalTransform

#: Number of windows that are drawn to find one that fits, as in torchvision.
_ATTEMPTS = 10

#: Input size of the networks that `Augmentation.short_side` is given for.
_PAPER_SIZE = 224


class RawImage(NamedTuple):
    """An image as it was read; with an additional first axis, the images of a chunk.

    Attributes:
        data: string scalar: uint8 pixels, the bytes of a JPEG, or the path of a JPEG file.
        shape: `(2,)`, int32: height and width.
        kind: int32 scalar: `PIXELS`, `JPEG` or `PATH` of `keras_resnet.data.reading`.
    """

    data: Any
    shape: Any
    kind: Any


class Variation(NamedTuple):
    """The random values of an image; with an additional first axis, of the images of a chunk.

    Attributes:
        seed: `(2,)`, int32: the seed of the transforms after cropping and flipping.
        flip: bool scalar: whether the image is flipped.
        cut: the window to cut out; empty if the image is cropped as for evaluation.
    """

    seed: Any
    flip: Any
    cut: Cuts | tuple[()]


def draw(shapes: Any, encoded: Any, seeds: Any, size: int, augmentation: Augmentation) -> Variation:
    """Draw the random windows and flips of several images.

    Args:
        shapes: `(n, 2)`, int32: heights and widths of the images; n is static.
        encoded: `(n,)`, bool: whether each image is a JPEG.
        seeds: `(n, 2)`, int32: one seed per image, epoch and copy.
        size: height and width of the training images.
        augmentation: the augmentation.
    """
    # Each image has its own random numbers; all other computations are for all images together.
    draws = tf.stack(
        [tf.random.stateless_uniform([4 * _ATTEMPTS + 1], seed) for seed in tf.unstack(seeds)]
    )
    flip, draws = draws[:, 0] < augmentation.flip, draws[:, 1:]
    if augmentation.crop not in ("inception", "he2015"):
        return Variation(seeds, flip, ())
    floats = tf.cast(shapes, tf.float32)
    if augmentation.crop == "inception":
        boxes = inception_boxes(floats, tf.reshape(draws, [-1, 4, _ATTEMPTS]), augmentation)
    else:
        boxes = he2015_boxes(floats, draws[:, :3], size, augmentation)
    context = augmentation.crop == "he2015"
    cuts = cuts_of(boxes, shapes, encoded, size, antialias=augmentation.antialias, context=context)
    return Variation(seeds, flip, cuts)


def training_image(
    raw: RawImage | tf.Tensor, drawn: Variation, protocol: EvalProtocol, augmentation: Augmentation
) -> Any:
    """Return a training image, `(size, size, 3)`, uint8, RGB in [0, 255].

    Args:
        raw: the image as read, or pixels `(height, width, 3)`, uint8, RGB.
        drawn: the random values of `draw` for the image.
        protocol: the size, and the resizing and cropping of images without a random window.
        augmentation: the augmentation.
    """
    if not drawn.cut:
        return vary(evaluation_image(raw, protocol), drawn, augmentation)
    cut, size = drawn.cut, protocol.size
    image = _of_kind(
        raw,
        lambda pixels: cut_pixels(pixels, cut, size, augmentation.antialias),
        lambda data: cut_jpeg(data, cut, size, augmentation.antialias),
    )
    return vary(image, drawn, augmentation)


def evaluation_image(raw: RawImage | tf.Tensor, protocol: EvalProtocol) -> Any:
    """Return an evaluation image, `(size, size, 3)`, uint8, RGB in [0, 255].

    JPEGs are decoded at full size with the exact inverse DCT, as Pillow does. Images that already
    have the size are not resampled if the protocol resizes the short side to that size.

    Args:
        raw: as for `training_image`.
        protocol: resizing and cropping.
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


def vary(image: Any, drawn: Variation, augmentation: Augmentation) -> Any:
    """Apply the transforms after cropping and resizing to an image `(size, size, 3)`, uint8."""
    shape = image.shape

    def seed(step: int) -> Any:
        """Return a seed for one transform, which does not depend on the other transforms."""
        return tf.random.fold_in(drawn.seed, step)

    if augmentation.crop == "pad":
        image = pad_and_crop(image, seed(1), augmentation.padding, augmentation.fill)
    if augmentation.flip:
        # Ten times faster than a slice with a step of -1.
        image = tf.cond(drawn.flip, lambda: tf.reverse(image, axis=[1]), lambda: image)
    if augmentation.auto == "timm-randaugment":
        strength = (
            augmentation.auto_magnitude,
            augmentation.auto_deviation,
            augmentation.auto_probability,
        )
        image = rand_augment(image, seed(2), augmentation.fill, augmentation.auto_layers, *strength)
    elif augmentation.auto == "trivialaugment-wide":
        image = trivial_augment(image, seed(2), augmentation.fill)
    if augmentation.auto_contrast:
        image = color.random_auto_contrast(image, seed(3), augmentation.auto_contrast)
    if (
        augmentation.brightness
        or augmentation.contrast
        or augmentation.saturation
        or augmentation.hue
    ):
        image = color.color_jitter(
            image,
            seed(4),
            augmentation.brightness,
            augmentation.contrast,
            augmentation.saturation,
            augmentation.hue,
        )
    if augmentation.lighting:
        image = color.lighting(image, seed(5), augmentation.lighting)
    if augmentation.erasing:
        image = random_erasing(image, seed(6), augmentation.erasing)
    return tf.ensure_shape(image, shape)


def inception_boxes(shapes: Any, draws: Any, augmentation: Augmentation) -> Any:
    """Return random windows for the crop `"inception"`; see `Augmentation`.

    The window of an image is the first of ten random ones that fits into the image. If none does,
    it is the largest centered window with an allowed aspect ratio.

    Args:
        shapes: `(n, 2)`, float32: heights and widths of the images.
        draws: `(n, 4, 10)`, uniform in [0, 1): area, logarithm of the aspect ratio, row and column.
        augmentation: the ranges of area and aspect ratio.

    Returns:
        `(n, 4)`, float32 integers: top, left, height, width.
    """
    height, width = shapes[:, :1], shapes[:, 1:]
    areas = (
        (augmentation.area[0] + draws[:, 0] * (augmentation.area[1] - augmentation.area[0]))
        * height
        * width
    )
    low, high = (math.log(ratio) for ratio in augmentation.aspect)
    aspects = tf.exp(low + draws[:, 1] * (high - low))
    rows, columns = tf.round(tf.sqrt(areas / aspects)), tf.round(tf.sqrt(areas * aspects))
    fits = (rows >= 1) & (columns >= 1) & (rows <= height) & (columns <= width)
    first = tf.argmax(fits, axis=1)

    def chosen(values: Any) -> Any:
        return tf.gather(values, first, axis=1, batch_dims=1)[:, tf.newaxis]

    largest = [
        tf.minimum(height, tf.round(width / augmentation.aspect[0])),
        tf.minimum(width, tf.round(height * augmentation.aspect[1])),
    ]
    found = tf.reduce_any(fits, axis=1, keepdims=True)
    sides = tf.where(
        found, tf.concat([chosen(rows), chosen(columns)], 1), tf.concat(largest, axis=1)
    )
    free = shapes - sides
    places = tf.concat([chosen(draws[:, 2]), chosen(draws[:, 3])], axis=1)
    # All free + 1 positions have equal probability.
    drawn = tf.minimum(tf.floor(places * (free + 1)), free)
    return tf.concat([tf.where(found, drawn, tf.floor(free / 2)), sides], axis=1)


def he2015_boxes(shapes: Any, draws: Any, size: int, augmentation: Augmentation) -> Any:
    """Return random squares for the crop `"he2015"`; see `Augmentation`.

    Args:
        shapes: `(n, 2)`, float32: heights and widths of the images.
        draws: `(n, 3)`, uniform in [0, 1): length of the short side, row and column.
        size: height and width of the training images.
        augmentation: the range of lengths of the short side.

    Returns:
        `(n, 4)`, float32: top, left, height, width, in pixels of the image before it is resized.
    """
    low, high = (round(side * size / _PAPER_SIZE) for side in augmentation.short_side)
    # All integer lengths have equal probability, and so do all integer positions.
    short = tf.minimum(low + tf.floor(draws[:, :1] * float(high - low + 1)), float(high))
    pixels = tf.reduce_min(shapes, axis=1, keepdims=True) / short
    free = tf.maximum(tf.floor(shapes / pixels + 1e-3) - float(size), 0.0)
    corner = tf.minimum(tf.floor(draws[:, 1:] * (free + 1)), free) * pixels
    return tf.concat([corner, tf.tile(float(size) * pixels, [1, 2])], axis=1)


def pad_and_crop(image: Any, seed: Any, padding: int = 4, fill: Sequence[int] = (0, 0, 0)) -> Any:
    """Pad an image on each side, and crop it back to its size at a random position.

    Follows He et al. 2015, section 4.2 (CIFAR).

    Args:
        image: `(height, width, 3)`, uint8.
        seed: two integers.
        padding: pixels on each side.
        fill: color of the padding.
    """
    offset = tf.constant(fill, tf.uint8)
    # `tf.pad` pads with zeros only: pad the difference to the color, modulo 256, then add it again.
    padded = tf.pad(image - offset, [[padding, padding], [padding, padding], [0, 0]]) + offset
    return tf.image.stateless_random_crop(padded, tf.shape(image), seed)


def _of_kind(
    raw: RawImage | tf.Tensor, of_pixels: Callable[[Any], Any], of_jpeg: Callable[[Any], Any]
) -> Any:
    """Apply the function for the kind of data of an image."""
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
