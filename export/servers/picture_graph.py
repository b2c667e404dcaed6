"""Decoding of JPEG and PNG files as TensorFlow operations inside an artifact.

They make the pixels that `read_image` and the evaluation transform make: the
EXIF orientation is applied, alpha is dropped, palettes and grey become RGB, and of 16 bits the
upper 8 are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_resnet.images.decode import MAX_PIXELS
from keras_resnet.images.protocol import EvalProtocol, eval_transform

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"

#: Files of one request that are decoded at the same time, where there are as many cores.
_PARALLEL = 16

#: Segments or chunks that are looked at for an orientation. Cameras write about ten, before the
#: pixels; a file of nothing else must not keep a server busy.
_MAX_SEGMENTS = 256

#: ITU-R 601, as Pillow's mode L.
_GREY = (0.299, 0.587, 0.114)


def prepare_files(files: Any, protocol: EvalProtocol, channels: int) -> Any:
    """Decodes, orients, resizes and crops files of any sizes.

    Args:
        files: `(batch,)`, string: the bytes of JPEG or PNG files.
        protocol: sizes and interpolation.
        channels: 1 or 3.

    Returns:
        `(batch, size, size, channels)`, float32, RGB or grey in [0, 255].

    Raises:
        tf.errors.InvalidArgumentError: when it runs, if files are something else, damaged or
            larger than `MAX_PIXELS`; the message has their indices.
    """
    transform = eval_transform(protocol)

    def read(index: Any, data: Any) -> tuple[Any, Any]:
        return index, transform.graph(decode_file(data))

    count = tf.size(files, tf.int64)
    numbered = tf.data.Dataset.from_tensor_slices(files).enumerate()
    # In a graph nothing catches an error, but a dataset can leave out what fails. That tells which
    # files are bad, whatever the reason is. The last element makes it one that is never empty.
    good = numbered.map(read, num_parallel_calls=_PARALLEL).ignore_errors()
    blank = tf.zeros((protocol.size, protocol.size, 3), tf.uint8)
    end = tf.data.Dataset.from_tensors((tf.constant(-1, tf.int64), blank))
    numbers, pictures = good.concatenate(end).batch(count + 1).get_single_element()
    everything = tf.range(count)
    bad = tf.boolean_mask(everything, tf.reduce_all(everything[:, None] != numbers[:-1], axis=1))
    message = (
        f"Expected JPEG or PNG files of at most {MAX_PIXELS} pixels. "
        "Received: bytes that are no such image, or a damaged one, at these indices of the batch:"
    )
    with tf.control_dependencies([tf.debugging.Assert(tf.size(bad) == 0, [message, bad], 16)]):
        pixels = tf.cast(pictures[:-1], tf.float32)
    return pixels if channels == 3 else tf.round(tf.tensordot(pixels, [[g] for g in _GREY], 1))


def decode_file(data: Any) -> Any:
    """Decodes and orients one file: a scalar string to `(height, width, 3)`, uint8, RGB.

    Raises:
        tf.errors.InvalidArgumentError: when it runs, if it is no JPEG or PNG, damaged or too large.
    """
    is_png = tf.strings.substr(data, 0, len(_PNG)) == _PNG
    is_jpeg = tf.strings.substr(data, 0, len(_JPEG)) == _JPEG
    with tf.control_dependencies([tf.debugging.Assert(is_png | is_jpeg, ["not JPEG or PNG"])]):
        size = tf.cond(is_png, lambda: _png_size(data), lambda: tf.io.extract_jpeg_shape(data)[:2])
    small = tf.reduce_prod(tf.cast(size, tf.int64)) <= MAX_PIXELS
    with tf.control_dependencies([tf.debugging.Assert(small, ["too large"])]):
        pixels = tf.cond(
            is_png,
            lambda: tf.io.decode_png(data, channels=3),
            # The transform that Pillow uses; TensorFlow's default is faster and less exact.
            lambda: tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"),
        )
    exif = tf.cond(
        is_png, lambda: _find_exif(data, 8, _png_chunk), lambda: _find_exif(data, 2, _jpeg_segment)
    )
    return _oriented(pixels, exif_orientation(exif))


def exif_orientation(exif: Any) -> Any:
    """EXIF orientation, int64, 1 to 8; 1 (upright) if there is none or the data is damaged.

    `exif` is a scalar string: TIFF with or without the prefix that it has in JPEGs (EXIF 2.32,
    section 4.6.4).
    """
    prefix = tf.cast(tf.strings.substr(exif, 0, 6) == b"Exif\0\0", tf.int32) * 6
    tiff = tf.strings.substr(exif, prefix, tf.strings.length(exif) - prefix)
    size = tf.cast(tf.strings.length(tiff), tf.int64)
    # An entry may begin within the last bytes: those that follow read as zeros.
    octets = _octets(tf.strings.join([tiff, b"\0" * 12]))
    little = tf.strings.substr(tiff, 0, 4) == b"II*\0"
    big = tf.strings.substr(tiff, 0, 4) == b"MM\0*"

    def numbers(parts: Any, length: int) -> Any:
        powers = [256**exponent for exponent in range(length)]
        weights = tf.where(little, tf.constant(powers, tf.int64), powers[::-1])
        return tf.reduce_sum(parts * weights, axis=-1)

    start = tf.minimum(numbers(octets[4:8], 4), size)
    count = tf.minimum(numbers(octets[start : start + 2], 2), (size - start) // 12)
    entries = tf.reshape(octets[start + 2 : start + 2 + 12 * count], (-1, 12))
    tag, kind, value = (numbers(entries[:, at : at + 2], 2) for at in (0, 2, 8))
    found = tf.reduce_sum(tf.boolean_mask(value, (tag == 0x0112) & (kind == 3))[:1])
    valid = (little | big) & (found >= 1) & (found <= 8)
    return tf.where(valid, found, tf.ones_like(found))


#: From the first ten bytes of a segment, as int64: whether the search ends before it, whether it
#: is EXIF data, where its content starts, how long that is, and how far it is to the next one.
_Step = Callable[[Any], tuple[Any, Any, int, Any, Any]]


def _jpeg_segment(head: Any) -> tuple[Any, Any, int, Any, Any]:
    """ITU T.81, section B.1.1: markers, of which any number of 0xFF may fill the space before."""
    marker, length = head[1], head[2] * 256 + head[3]
    ends = (head[0] != 0xFF) | tf.reduce_any(marker == tf.constant([0, 0xD9, 0xDA], tf.int64))
    is_exif = (marker == 0xE1) & _equal(head[4:10], b"Exif\0\0")
    step = tf.where(marker == 0xFF, tf.ones_like(length), 2 + length)
    return ends, is_exif, 4, tf.maximum(length - 2, 0), step


def _png_chunk(head: Any) -> tuple[Any, Any, int, Any, Any]:
    """PNG, third edition, section 5.3: length, kind, content, checksum."""
    length = tf.reduce_sum(head[:4] * [1 << 24, 1 << 16, 1 << 8, 1])
    kind = head[4:8]
    ends = _equal(kind, b"IDAT") | _equal(kind, b"IEND")
    return ends, _equal(kind, b"eXIf"), 8, length, 12 + length


def _find_exif(data: Any, first: int, step: _Step) -> Any:
    """The EXIF data before the pixels, a scalar string; empty if there is none."""
    size = tf.cast(tf.strings.length(data), tf.int64)
    padded = tf.strings.join([data, b"\0" * 10])

    def look(position: Any) -> tuple[Any, Any, int, Any, Any]:
        return step(_octets(tf.strings.substr(padded, position, 10)))

    def goes_on(position: Any, start: Any, length: Any) -> Any:
        return (position < size) & (start == 0) & ~look(position)[0]

    def go_on(position: Any, start: Any, length: Any) -> tuple[Any, Any, Any]:
        _, is_exif, offset, content, distance = look(position)
        begin = tf.minimum(position + offset, size)
        zero = tf.zeros_like(position)
        return (
            tf.minimum(position + distance, size),
            tf.where(is_exif, begin, zero),
            tf.where(is_exif, content, zero),
        )

    zero = tf.constant(0, tf.int64)
    _, start, length = tf.while_loop(
        goes_on,
        go_on,
        (tf.constant(first, tf.int64), zero, zero),
        maximum_iterations=_MAX_SEGMENTS,
    )
    return tf.strings.substr(data, start, length)


def _oriented(pixels: Any, orientation: Any) -> Any:
    """Turns and mirrors a picture so that it is upright."""

    def when(orientations: tuple[int, ...], change: Callable[[Any], Any], image: Any) -> Any:
        applies = tf.reduce_any(orientation == tf.constant(orientations, tf.int64))
        return tf.cond(applies, lambda: change(image), lambda: image)

    pixels = when((5, 6, 7, 8), lambda image: tf.transpose(image, (1, 0, 2)), pixels)
    pixels = when((3, 4, 7, 8), lambda image: tf.reverse(image, [0]), pixels)
    return when((2, 3, 6, 7), lambda image: tf.reverse(image, [1]), pixels)


def _png_size(data: Any) -> Any:
    """Height and width in the header of a PNG, int32; zeros if the header is cut off."""
    header = _octets(tf.strings.substr(tf.strings.join([data, b"\0" * 24]), 16, 8))
    # No more than 31 bits are allowed; what has more is too large in any case.
    sides = tf.reduce_sum(tf.reshape(header, (2, 4)) * [1 << 24, 1 << 16, 1 << 8, 1], axis=1)
    return tf.cast(tf.minimum(sides, MAX_PIXELS + 1)[::-1], tf.int32)


def _octets(text: Any) -> Any:
    return tf.cast(tf.io.decode_raw(text, tf.uint8), tf.int64)


def _equal(octets: Any, text: bytes) -> Any:
    return tf.reduce_all(octets == tf.constant(list(text), tf.int64))
