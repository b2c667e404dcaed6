"""Cropping and resizing of windows, fused with the decoding of JPEGs.

A JPEG decoder can skip the pixels outside a window, and can decode an image at a half, a quarter or
an eighth of its size. Both save most of the work. The windows are computed for many images at once,
because small tensors take as much time as large ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

#: Factors by which the JPEG decoder can shrink an image along each axis.
_RATIOS = (1, 2, 4, 8)


class Cuts(NamedTuple):
    """The window to cut out of an image; with an additional first axis, of several images.

    Attributes:
        level: int32 scalar: index into `_RATIOS` of the factor by which the JPEG decoder shrinks
            the image; 0 for decoded images.
        window: `(4,)`, int32: top, left, height and width of the pixels to decode, in pixels of the
            shrunken image.
        box: `(4,)`, float32: top, left, height and width of the box to resize, which lies inside
            the window, in fractional pixels of the shrunken image.
        spare: `(2,)`, int32: 1 if the image has pixels to the left of the window, and to its right.
    """

    level: Any
    window: Any
    box: Any
    spare: Any


def cuts_of(
    boxes: Any, shapes: Any, encoded: Any, size: int, *, antialias: bool, context: bool
) -> Cuts:
    """Return the windows of pixels that are needed to resize boxes.

    Args:
        boxes: `(n, 4)`, float32: top, left, height and width in pixels of the images. Apart from
            rounding, boxes lie inside the images.
        shapes: `(n, 2)`, int32: heights and widths of the images.
        encoded: `(n,)`, bool: whether each image is a JPEG. If the box of a JPEG is at least twice
            `size`, the decoder shrinks the image by averaging pixels.
        size: height and width after resizing.
        antialias: whether shrinking averages all pixels, as Pillow does. Otherwise it interpolates
            between the nearest two pixels along each axis, and boxes are rounded to integers, which
            takes half the time.
        context: with `antialias`, whether the result is a crop of the resized image, whose border
            depends on pixels beyond the box, rather than a resized crop.
    """
    shrink = tf.reduce_min(boxes[:, 2:], axis=1) / float(size)
    level = tf.add_n([tf.cast(encoded & (shrink >= ratio), tf.int32) for ratio in _RATIOS[1:]])
    ratio = tf.gather(tf.constant(_RATIOS), level)[:, tf.newaxis]
    boxes = boxes / tf.cast(ratio, tf.float32)
    # libjpeg rounds sizes up.
    shapes = (shapes + ratio - 1) // ratio
    if antialias and context:
        # The radius of the kernel, and half a pixel between corners and centers, rounded up.
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
    """Crop and resize pixels `(height, width, 3)`, uint8, to `(size, size, 3)`, uint8."""
    top, left, height, width = tf.unstack(cut.window)
    inside = tf.slice(pixels, [top, left, 0], [height, width, 3])
    return _resample(inside, cut, size, antialias)


def cut_jpeg(data: Any, cut: Cuts, size: int, antialias: bool) -> Any:
    """Decode the window of a JPEG, and resize it to `(size, size, 3)`, uint8.

    Raises:
        tf.errors.InvalidArgumentError: the file is damaged.
    """

    def decoder(ratio: int) -> Any:
        return lambda: tf.io.decode_and_crop_jpeg(
            data, cut.window + margin, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE"
        )

    # The decoder interpolates colors of half resolution, but not across the border of what it
    # decodes: decode one more column on either side.
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
    # The weights sum to 1, so that rounded values stay in [0, 255].
    rounded = tf.cast(tf.math.rint(resized[0]), tf.uint8)
    return tf.ensure_shape(rounded, (size, size, 3))
