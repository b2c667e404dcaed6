"""Records of TFRecord files: `tf.train.Example` with the features of TensorFlow's ImageNet."""

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

#: In TensorFlow's own ImageNet records, label 0 is the background, which no image shows.
LABEL_OFFSET = 1

_ENCODED, _LABEL = "image/encoded", "image/class/label"
_SYNSET, _TEXT = "image/class/synset", "image/class/text"

#: Of images that are encoded anew as JPEG.
_QUALITY = 95

#: On a side: what libjpeg takes at most.
_MOST_JPEG_PIXELS = 65_500

_JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})


class StoredImage(NamedTuple):
    """An image as it is stored.

    Attributes:
        data: the contents of an image file.
        format: what it is, `b"JPEG"` or `b"PNG"`.
        height: of what `read_image` makes of it, in pixels.
        width: likewise.
    """

    data: bytes
    format: bytes
    height: int
    width: int


def stored_image(data: bytes | np.ndarray, name: str, short_side: int | None = None) -> StoredImage:
    """Return the stored form of an image, after decoding it completely once.

    A JPEG, grey or of three channels, and a PNG are kept bit for bit. JPEG becomes of: CMYK, files
    that are called JPEG and are none (ImageNet has both), and images that are resized. All else,
    and so pixels, becomes PNG, which loses nothing.

    Args:
        data: the contents of an image file, or pixels `(height, width, 3)`, uint8, RGB.
        name: what errors call it; its suffix says what it claims to be.
        short_side: pixels that the shorter side shall have at most; None keeps the size. Resizing
            is bicubic with antialiasing.

    Raises:
        UnreadableImageError: it is no image that can be read completely.
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
        called_jpeg = PurePosixPath(name).suffix.lower() in _JPEG_SUFFIXES
        found = format_of(data)
        if (found == "JPEG" and _jpeg_channels(data) in (1, 3)) or (
            found == "PNG" and not called_jpeg
        ):
            return StoredImage(data, found.encode(), height, width)
        kind = "JPEG" if found == "JPEG" or called_jpeg else "PNG"
    return _encoded(Image.fromarray(image), kind)


def _encoded(image: Image.Image, kind: str) -> StoredImage:
    if max(image.size) > _MOST_JPEG_PIXELS:
        kind = "PNG"
    file = io.BytesIO()
    image.save(file, kind, **({"quality": _QUALITY} if kind == "JPEG" else {}))
    return StoredImage(file.getvalue(), kind.encode(), image.height, image.width)


def _jpeg_channels(data: bytes) -> int:
    """Channels of a JPEG that could be decoded: grey has 1, CMYK 4."""
    for marker, start, _ in jpeg_segments(data):
        # The frame header: ITU T.81, B.2.2. Of the markers C0 to CF, three are others.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return data[start + 9]
    return 0


def serialized_example(
    image: StoredImage, label: int, text: str, synset: str | None, filename: str
) -> bytes:
    """The record of an image: equal arguments give equal bytes.

    Args:
        image: what is stored.
        label: index of its class, from 0; `LABEL_OFFSET` is added.
        text: name of its class.
        synset: identifier of its class, if there is one.
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
    """The class features of a record.

    Attributes:
        label: its number, as it stands there.
        synset: its identifier, or "".
        text: its name, or "".
    """

    label: int
    synset: str
    text: str


def read_example(files: TFRecordFiles, index: int) -> tuple[bytes, ClassFeatures]:
    """Reads the image file in a record, and what the record says about its class.

    Raises:
        ValueError: it is no `tf.train.Example`, or lacks a feature.
        OSError: its file cannot be read.
    """
    import tensorflow as tf

    record = files.read(index)
    try:
        features = tf.train.Example.FromString(record).features.feature
    except google.protobuf.message.DecodeError as error:
        raise ValueError(
            "Expected a record that is a tf.train.Example. Received: another one, "
            f"{files.name_of(index)}"
        ) from error
    # Asking a protocol buffer's map for what is not there would add it.
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
