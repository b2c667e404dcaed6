"""Decoding of JPEG and PNG files in TensorFlow operations, for the graph of an artifact.

The pixels are those of `read_image` and the evaluation transform: the EXIF orientation is applied,
alpha is removed, palettes and gray become RGB, and 16-bit values keep their upper 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_resnet.images.decode import MAX_PIXELS
from keras_resnet.images.protocol import EvalProtocol, eval_transform

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"

#: Largest number of files of a request that are decoded at the same time.
_PARALLEL = 16

#: Largest number of segments or chunks that are searched for an orientation. Cameras write about
#: ten before the pixels; a malicious file must not keep a server busy.
_MAX_SEGMENTS = 256

#: Weights of ITU-R 601, as in Pillow's mode L.
_GRAY = (0.299, 0.587, 0.114)


def prepare_files(files: Any, protocol: EvalProtocol, channels: int) -> Any:
    """Decode, orient, resize and crop image files of any size.

    Args:
        files: contents of JPEG or PNG files, string `(batch,)`.
        protocol: evaluation protocol, with the sizes and the interpolation.
        channels: 1 or 3.

    Returns:
        Images, float32 `(batch, size, size, channels)`, RGB or gray in [0, 255].

    Raises:
        tf.errors.InvalidArgumentError: at run time, if files have another format, are damaged or
            have more than `MAX_PIXELS` pixels. The message has their indices.
    """
    transform = eval_transform(protocol)

    def read(index: Any, data: Any) -> tuple[Any, Any]:
        return index, transform.graph(decode_file(data))

    count = tf.size(files, tf.int64)
    numbered = tf.data.Dataset.from_tensor_slices(files).enumerate()
    # A graph cannot catch errors, but a dataset can skip the elements that fail. The numbers of the
    # remaining ones show which files are bad. The last element keeps the dataset from being empty.
    good = numbered.map(read, num_parallel_calls=_PARALLEL).ignore_errors()
    blank = tf.zeros((protocol.size, protocol.size, 3), tf.uint8)
    end = tf.data.Dataset.from_tensors((tf.constant(-1, tf.int64), blank))
    numbers, pictures = good.concatenate(end).batch(count + 1).get_single_element()
    indices = tf.range(count)
    bad = tf.boolean_mask(indices, tf.reduce_all(indices[:, None] != numbers[:-1], axis=1))
    message = (
        f"Expected JPEG or PNG files of at most {MAX_PIXELS} pixels. "
        "Received: damaged or other files at these indices of the batch:"
    )
    with tf.control_dependencies([tf.debugging.Assert(tf.size(bad) == 0, [message, bad], 16)]):
        pixels = tf.cast(pictures[:-1], tf.float32)
    return pixels if channels == 3 else tf.round(tf.tensordot(pixels, [[g] for g in _GRAY], 1))


def decode_file(data: Any) -> Any:
    """Decode and orient one file, a scalar string; return uint8 `(height, width, 3)`, RGB.

    Raises:
        tf.errors.InvalidArgumentError: at run time, if the file is not a JPEG or PNG file, is
            damaged or is too large.
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
            # The same inverse DCT as Pillow; TensorFlow's default is faster and less exact.
            lambda: tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"),
        )
    exif = tf.cond(
        is_png, lambda: _find_exif(data, 8, _png_chunk), lambda: _find_exif(data, 2, _jpeg_segment)
    )
    return _oriented(pixels, exif_orientation(exif))


def exif_orientation(exif: Any) -> Any:
    """Return the EXIF orientation, int64 from 1 to 8; 1 (upright) if it is missing or damaged.

    `exif` is a scalar string in TIFF format, with or without the prefix of JPEG files (EXIF 2.32,
    section 4.6.4).
    """
    prefix = tf.cast(tf.strings.substr(exif, 0, 6) == b"Exif\0\0", tf.int32) * 6
    tiff = tf.strings.substr(exif, prefix, tf.strings.length(exif) - prefix)
    size = tf.cast(tf.strings.length(tiff), tf.int64)
    # Padding with zeros, as an entry may begin within the last bytes.
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


#: Function of the first ten bytes of a segment, int64, that returns whether the search ends before
#: the segment, whether it has EXIF data, the offset and the length of its content, and the distance
#: to the next segment.
_Step = Callable[[Any], tuple[Any, Any, int, Any, Any]]


def _jpeg_segment(head: Any) -> tuple[Any, Any, int, Any, Any]:
    """Read a segment of a JPEG file (ITU T.81, section B.1.1); any number of 0xFF may precede."""
    marker, length = head[1], head[2] * 256 + head[3]
    ends = (head[0] != 0xFF) | tf.reduce_any(marker == tf.constant([0, 0xD9, 0xDA], tf.int64))
    is_exif = (marker == 0xE1) & _equal(head[4:10], b"Exif\0\0")
    step = tf.where(marker == 0xFF, tf.ones_like(length), 2 + length)
    return ends, is_exif, 4, tf.maximum(length - 2, 0), step


def _png_chunk(head: Any) -> tuple[Any, Any, int, Any, Any]:
    """Read a chunk of a PNG file (third edition, section 5.3): length, kind, content, checksum."""
    length = tf.reduce_sum(head[:4] * [1 << 24, 1 << 16, 1 << 8, 1])
    kind = head[4:8]
    ends = _equal(kind, b"IDAT") | _equal(kind, b"IEND")
    return ends, _equal(kind, b"eXIf"), 8, length, 12 + length


def _find_exif(data: Any, first: int, step: _Step) -> Any:
    """Return the EXIF data before the pixels as a scalar string; empty if there is none."""
    size = tf.cast(tf.strings.length(data), tf.int64)
    padded = tf.strings.join([data, b"\0" * 10])

    def look(position: Any) -> tuple[Any, Any, int, Any, Any]:
        return step(_octets(tf.strings.substr(padded, position, 10)))

    def searching(position: Any, start: Any, length: Any) -> Any:
        return (position < size) & (start == 0) & ~look(position)[0]

    def advance(position: Any, start: Any, length: Any) -> tuple[Any, Any, Any]:
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
        searching,
        advance,
        (tf.constant(first, tf.int64), zero, zero),
        maximum_iterations=_MAX_SEGMENTS,
    )
    return tf.strings.substr(data, start, length)


def _oriented(pixels: Any, orientation: Any) -> Any:
    """Rotate and mirror a picture so that it is upright."""

    def when(orientations: tuple[int, ...], change: Callable[[Any], Any], image: Any) -> Any:
        applies = tf.reduce_any(orientation == tf.constant(orientations, tf.int64))
        return tf.cond(applies, lambda: change(image), lambda: image)

    pixels = when((5, 6, 7, 8), lambda image: tf.transpose(image, (1, 0, 2)), pixels)
    pixels = when((3, 4, 7, 8), lambda image: tf.reverse(image, [0]), pixels)
    return when((2, 3, 6, 7), lambda image: tf.reverse(image, [1]), pixels)


def _png_size(data: Any) -> Any:
    """Return the height and width in the header of a PNG file, int32; zeros if it is incomplete."""
    header = _octets(tf.strings.substr(tf.strings.join([data, b"\0" * 24]), 16, 8))
    # The clipping avoids an overflow of int32; such sides are too large in any case.
    sides = tf.reduce_sum(tf.reshape(header, (2, 4)) * [1 << 24, 1 << 16, 1 << 8, 1], axis=1)
    return tf.cast(tf.minimum(sides, MAX_PIXELS + 1)[::-1], tf.int32)


def _octets(text: Any) -> Any:
    return tf.cast(tf.io.decode_raw(text, tf.uint8), tf.int64)


def _equal(octets: Any, text: bytes) -> Any:
    return tf.reduce_all(octets == tf.constant(list(text), tf.int64))
