"""Records of TFRecord files: `tf.train.Example`s with the features of TensorFlow's ImageNet."""

from __future__ import annotations

import io
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import google.protobuf.message  # type: ignore[import-untyped]
import numpy as np
from PIL import Image

from keras_resnet.data.shards.random_access import TFRecordFiles
from keras_resnet.images.decode import UnreadableImageError, read_image
from keras_resnet.images.formats import format_of, jpeg_segments

#: Label of the class with index 0: TensorFlow's ImageNet reserves 0 for a background class.
LABEL_OFFSET = 1

_ENCODED, _LABEL = "image/encoded", "image/class/label"
_SYNSET, _TEXT = "image/class/synset", "image/class/text"

#: JPEG quality of images that are re-encoded.
_QUALITY = 95

#: The longest side of an image that libjpeg can encode, in pixels.
_LONGEST_JPEG_SIDE = 65_500

_JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})


class StoredImage(NamedTuple):
    """An encoded image as it is stored.

    Attributes:
        data: contents of the image file.
        format: `b"JPEG"` or `b"PNG"`.
        height: height of the decoded image, in pixels.
        width: width of the decoded image, in pixels.
    """

    data: bytes
    format: bytes
    height: int
    width: int


def stored_image(data: bytes | np.ndarray, name: str, short_side: int | None = None) -> StoredImage:
    """Return the form in which an image is stored, after checking that it can be decoded.

    Files are kept bit for bit if they are JPEGs with one or three channels, or PNGs with a PNG
    suffix. CMYK JPEGs, files of other formats with a JPEG suffix (ImageNet has both) and resized
    images are re-encoded as JPEG. All other files, and pixels, are encoded as PNG, without loss.

    Args:
        data: contents of an image file, or pixels `(height, width, 3)`, uint8, RGB.
        name: name of the image for messages; its suffix is that of the file.
        short_side: largest short side in pixels; larger images are shrunk to it (bicubic, with
            antialiasing). None keeps the size.

    Raises:
        UnreadableImageError: the image cannot be decoded completely.
    """
    try:
        image = read_image(data)
    except UnreadableImageError as error:
        raise UnreadableImageError(str(error).replace("the given bytes", name)) from error
    height, width = image.shape[:2]
    if short_side is not None and min(height, width) > short_side:
        scale = short_side / min(height, width)
        size = round(width * scale), round(height * scale)
        return _encoded(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), "JPEG")
    kind = "PNG"
    if isinstance(data, bytes):
        has_jpeg_suffix = PurePosixPath(name).suffix.lower() in _JPEG_SUFFIXES
        found = format_of(data)
        if (found == "JPEG" and _jpeg_channels(data) in (1, 3)) or (
            found == "PNG" and not has_jpeg_suffix
        ):
            return StoredImage(data, found.encode(), height, width)
        kind = "JPEG" if found == "JPEG" or has_jpeg_suffix else "PNG"
    return _encoded(Image.fromarray(image), kind)


def _encoded(image: Image.Image, kind: str) -> StoredImage:
    if max(image.size) > _LONGEST_JPEG_SIDE:
        kind = "PNG"
    file = io.BytesIO()
    image.save(file, kind, **({"quality": _QUALITY} if kind == "JPEG" else {}))
    return StoredImage(file.getvalue(), kind.encode(), image.height, image.width)


def _jpeg_channels(data: bytes) -> int:
    """Return the number of channels of a valid JPEG: 1 for gray, 3 for color, 4 for CMYK."""
    for marker, start, _ in jpeg_segments(data):
        # The frame header: ITU T.81, B.2.2. Three of the markers C0 to CF have other meanings.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return data[start + 9]
    return 0


def serialized_example(
    image: StoredImage, label: int, text: str, synset: str | None, filename: str
) -> bytes:
    """Return the serialized `tf.train.Example` of an image; equal arguments give equal bytes.

    Args:
        image: the encoded image.
        label: index of its class, from 0; the record stores `label + LABEL_OFFSET`.
        text: name of its class.
        synset: identifier of its class, or None.
        filename: name of its file, without directories.
    """
    import tensorflow as tf

    values: dict[str, bytes | int] = {
        _ENCODED: image.data,
        "image/format": image.format,
        "image/height": image.height,
        "image/width": image.width,
        _LABEL: label + LABEL_OFFSET,
        _TEXT: text.encode(),
        "image/filename": filename.encode(errors="surrogateescape"),
    }
    if synset is not None:
        values[_SYNSET] = synset.encode()
    example = tf.train.Example()
    for name, value in values.items():
        feature = example.features.feature[name]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        else:
            feature.int64_list.value.append(value)
    return example.SerializeToString(deterministic=True)


class ClassFeatures(NamedTuple):
    """The features of a record that describe its class.

    Attributes:
        label: the label as stored.
        synset: the identifier of the class, or "".
        text: the name of the class, or "".
    """

    label: int
    synset: str
    text: str


def read_example(files: TFRecordFiles, index: int) -> tuple[bytes, ClassFeatures]:
    """Return the encoded image in a record, and the features of its class.

    Raises:
        ValueError: the record is not a `tf.train.Example`, or lacks a feature.
        OSError: the TFRecord file cannot be read.
    """
    import tensorflow as tf

    record = files.read(index)
    try:
        features = tf.train.Example.FromString(record).features.feature
    except google.protobuf.message.DecodeError as error:
        raise ValueError(
            "Expected a record that is a tf.train.Example. Received: other data in "
            f"{files.name_of(index)}"
        ) from error
    # Test for keys first: reading a missing key of a protocol buffer's map adds it.
    encoded: Any = features[_ENCODED].bytes_list.value if _ENCODED in features else ()
    label: Any = features[_LABEL].int64_list.value if _LABEL in features else ()
    if len(encoded) != 1 or len(label) != 1:
        raise ValueError(
            f"Expected the features {_ENCODED} (1 bytes) and {_LABEL} (1 int64). Received: "
            f"{', '.join(_described(features)) or 'no features'} in {files.name_of(index)}"
        )
    return encoded[0], ClassFeatures(label[0], _text(features, _SYNSET), _text(features, _TEXT))


def _text(features: Any, name: str) -> str:
    values: Any = features[name].bytes_list.value if name in features else ()
    return values[0].decode(errors="replace") if len(values) == 1 else ""


def _described(features: Any) -> list[str]:
    found = []
    for name in sorted(features)[:20]:
        kind = features[name].WhichOneof("kind")
        count = len(getattr(features[name], kind).value) if kind else 0
        found.append(f"{name} ({count} {kind.removesuffix('_list') if kind else 'empty'})")
    return found
