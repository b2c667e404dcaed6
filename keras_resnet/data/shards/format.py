"""TFRecord shards: pictures as `tf.train.Example` with the features of TensorFlow's ImageNet."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_resnet.images.decode import UnreadableImageError, read_image
from keras_resnet.images.formats import jpeg_segments
from keras_resnet.support.files import partial_directory
from keras_resnet.support.fingerprints import fingerprint_of_file

#: What `dataset.json` calls its own format.
FORMAT = "keras_resnet TFRecord shards, version 1"

#: Files beside the shards: what they consist of, and length and label of every record.
DATASET_FILE, INDEX_FILE = "dataset.json", "index.npy"

#: A row of the index: bytes of the record and its label, from 0. Little-endian on every machine.
INDEX_DTYPE = np.dtype([("length", "<i8"), ("label", "<i4")])

#: In TensorFlow's own ImageNet records, label 0 is the background, which no picture shows.
LABEL_OFFSET = 1

#: Of pictures that are encoded anew as JPEG.
_QUALITY = 95

#: On a side: what libjpeg takes at most.
_MOST_JPEG_PIXELS = 65_500

_JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})
_JPEG_START, _PNG_START = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


class Picture(NamedTuple):
    """A picture as it is stored.

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


class StoredRecord(NamedTuple):
    """What goes into a shard.

    Attributes:
        example: a serialized `tf.train.Example`; None if the picture is unreadable and left out.
        label: of the picture, from 0; -1 of one that is left out.
        name: what reports call it.
    """

    example: bytes | None
    label: int
    name: str


@dataclasses.dataclass(frozen=True)
class Shard:
    """A finished shard; `dataclasses.asdict` is fit for JSON.

    Attributes:
        name: of the file.
        bytes: its size.
        sha256: its checksum, in hexadecimal digits.
        lengths: bytes of every record.
        labels: label of every record, from 0.
        skipped: names of the unreadable pictures that were left out.
    """

    name: str
    bytes: int
    sha256: str
    lengths: list[int]
    labels: list[int]
    skipped: list[str]


def stored_picture(data: bytes | np.ndarray, name: str, short_side: int | None = None) -> Picture:
    """What is stored of a picture, after it was decoded completely once.

    A JPEG, grey or of three channels, and a PNG are kept bit for bit. JPEG becomes of: CMYK, files
    that are called JPEG and are none (ImageNet has both), and pictures that are resized. All else,
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
        resized = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
        return _encoded(resized, "JPEG")
    if isinstance(data, bytes):
        called_jpeg = PurePosixPath(name).suffix.lower() in _JPEG_SUFFIXES
        is_jpeg = data.startswith(_JPEG_START)
        if is_jpeg and _jpeg_channels(data) in (1, 3):
            return Picture(data, b"JPEG", height, width)
        if data.startswith(_PNG_START) and not called_jpeg:
            return Picture(data, b"PNG", height, width)
        if is_jpeg or called_jpeg:
            return _encoded(Image.fromarray(image), "JPEG")
    return _encoded(Image.fromarray(image), "PNG")


def serialized_example(
    picture: Picture, label: int, text: str, synset: str | None, filename: str
) -> bytes:
    """The record of a picture: equal arguments give equal bytes.

    Args:
        picture: what is stored.
        label: index of its class, from 0; `LABEL_OFFSET` is added.
        text: name of its class.
        synset: identifier of its class, if there is one.
        filename: name of its file, without folders.
    """
    features = {
        "image/encoded": _bytes(picture.data),
        "image/format": _bytes(picture.format),
        "image/height": _integer(picture.height),
        "image/width": _integer(picture.width),
        "image/class/label": _integer(label + LABEL_OFFSET),
        "image/class/text": _bytes(text.encode()),
        "image/filename": _bytes(filename.encode(errors="surrogateescape")),
    }
    if synset is not None:
        features["image/class/synset"] = _bytes(synset.encode())
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def write_shard(path: Path, records: Iterable[StoredRecord]) -> Shard:
    """Writes a shard under a temporary name and renames it.

    Raises:
        OSError: it cannot be written, for instance because the disk is full.
    """
    lengths: list[int] = []
    labels: list[int] = []
    skipped: list[str] = []
    with partial_directory(path.parent) as staging:
        partial = staging / path.name
        with tf.io.TFRecordWriter(str(partial)) as writer:
            for record in records:
                if record.example is None:
                    skipped.append(record.name)
                    continue
                writer.write(record.example)
                lengths.append(len(record.example))
                labels.append(record.label)
        size, checksum = partial.stat().st_size, fingerprint_of_file(partial)
        partial.replace(path)
    return Shard(path.name, size, checksum, lengths, labels, skipped)


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _integer(value: int) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def _encoded(image: Image.Image, kind: str) -> Picture:
    if max(image.size) > _MOST_JPEG_PIXELS:
        kind = "PNG"
    file = io.BytesIO()
    image.save(file, kind, **({"quality": _QUALITY} if kind == "JPEG" else {}))
    return Picture(file.getvalue(), kind.encode(), image.height, image.width)


def _jpeg_channels(data: bytes) -> int:
    """Channels of a JPEG that could be decoded: grey has 1, CMYK 4."""
    for marker, start, _ in jpeg_segments(data):
        # The frame header: ITU T.81, B.2.2. Of the markers C0 to CF, three are others.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return data[start + 9]
    return 0
