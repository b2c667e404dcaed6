"""Cutting windows out of images and resizing them, fused with decoding where they are JPEGs.

A JPEG's decoder can leave out what lies outside of a window, and can decode an image at a half, a
quarter or an eighth of its size for less. Both give the pixels that are wanted for a fraction of
the work. Where the windows are is computed for many images at once: small tensors cost as much
time as large ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

#: Sizes that the inverse DCT makes for less: one pixel in so many, along each axis.
_RATIOS = (1, 2, 4, 8)


class Cuts(NamedTuple):
    """Windows to cut out of images: of one, or with a first axis, of several.

    Attributes:
        level: int32: which of the sizes 1, 1/2, 1/4, 1/8 a JPEG is decoded at; 0 of pixels.
        window: `(4,)`, int32: top, left, height and width of the pixels that are needed, at that
            size.
        box: `(4,)`, float32: top, left, height and width of what becomes the image, in fractions of
            pixels at that size, within the window.
        spare: `(2,)`, int32: 1 where the image goes on to the left and right of the window.
    """

    level: Any
    window: Any
    box: Any
    spare: Any


def cuts_of(
    boxes: Any, shapes: Any, encoded: Any, size: int, *, antialias: bool, context: bool
) -> Cuts:
    """Finds out which pixels boxes need.

    Args:
        boxes: `(n, 4)`, float32: top, left, height and width in pixels of the images, inside of
            them but for rounding.
        shapes: `(n, 2)`, int32: height and width of the images.
        encoded: `(n,)`, bool: which of them are JPEGs. Of those, where a box is at least twice
            `size`, the decoder averages blocks of pixels.
        size: height and width of the images.
        antialias: whether every pixel counts where an image shrinks, as with Pillow; otherwise the
            nearest two along each axis do, and boxes are rounded to whole pixels, which takes half
            the time.
        context: with `antialias`, whether an image is a crop of the resized image, so that pixels
            beyond the box count at its borders; otherwise it is the resized crop.
    """
    shrink = tf.reduce_min(boxes[:, 2:], axis=1) / float(size)
    level = tf.add_n([tf.cast(encoded & (shrink >= ratio), tf.int32) for ratio in _RATIOS[1:]])
    ratio = tf.gather(tf.constant(_RATIOS), level)[:, tf.newaxis]
    boxes = boxes / tf.cast(ratio, tf.float32)
    # libjpeg rounds sizes up.
    shapes = (shapes + ratio - 1) // ratio
    if antialias and context:
        # The radius of the kernel, and the half pixel between corners and centres.
        radius = tf.maximum(boxes[:, 2:] / float(size), 1.0) + 1.0
        start = tf.floor(boxes[:, :2] - radius)
        end = tf.math.ceil(boxes[:, :2] + boxes[:, 2:] + radius)
    else:
        start = tf.round(boxes[:, :2])
        end = start + tf.round(boxes[:, 2:])
    last = tf.clip_by_value(tf.cast(end, tf.int32), 1, shapes)
    first = tf.clip_by_value(tf.cast(start, tf.int32), 0, last - 1)
    window = tf.concat([first, last - first], axis=1)
    spare = tf.stack([first[:, 1] > 0, last[:, 1] < shapes[:, 1]], axis=1)
    return Cuts(level, window, boxes, tf.cast(spare, tf.int32))


def cut_pixels(pixels: Any, cut: Cuts, size: int, antialias: bool) -> Any:
    """Cuts one image out of pixels `(height, width, 3)`, uint8: `(size, size, 3)`, uint8."""
    top, left, height, width = tf.unstack(cut.window)
    inside = tf.slice(pixels, [top, left, 0], [height, width, 3])
    return _resample(inside, cut, size, antialias)


def cut_jpeg(data: Any, cut: Cuts, size: int, antialias: bool) -> Any:
    """The same from the bytes of a JPEG, of which only the window is decoded.

    Raises:
        tf.errors.InvalidArgumentError: the file is damaged.
    """

    def decoder(ratio: int) -> Any:
        return lambda: tf.io.decode_and_crop_jpeg(
            data, cut.window + margin, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE"
        )

    # Colours of halved resolution are interpolated, at the borders of what is decoded from one side
    # only: one more column is decoded on either side.
    left, right = tf.unstack(cut.spare)
    margin = tf.stack([0, -left, 0, left + right])
    pixels = tf.switch_case(cut.level, [decoder(ratio) for ratio in _RATIOS])
    return _resample(pixels[:, left : left + cut.window[3]], cut, size, antialias)


def _resample(pixels: Any, cut: Cuts, size: int, antialias: bool) -> Any:
    if antialias:
        scale = float(size) / cut.box[2:]
        resized = tf.raw_ops.ScaleAndTranslate(
            images=pixels[tf.newaxis],
            size=[size, size],
            scale=scale,
            translation=(tf.cast(cut.window[:2], tf.float32) - cut.box[:2]) * scale,
            kernel_type="triangle",
            antialias=True,
        )
    else:
        resized = tf.raw_ops.ResizeBilinear(
            images=pixels[tf.newaxis], size=[size, size], half_pixel_centers=True
        )
    # Weights add up to one, so values stay in [0, 255] but for less than the rounding.
    rounded = tf.cast(tf.math.rint(resized[0]), tf.uint8)
    return tf.ensure_shape(rounded, (size, size, 3))
