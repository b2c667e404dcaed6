"""Reader of TensorFlow's standard metadata in TFLite files: normalization and class names.

The format is that of `metadata_schema.fbs` in tensorflow/tflite-support: a flatbuffer in the entry
`TFLITE_METADATA`, and files that are appended to the model as a zip archive.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flatbuffers import encode, number_types  # type: ignore[import-untyped]
from flatbuffers.table import Table  # type: ignore[import-untyped]

from keras_resnet.models.archive import opened_archive

_ENTRY = b"TFLITE_METADATA"

#: Numbers of fields in the tables of the schema, and of union types and enumeration values.
_SUBGRAPHS, _INPUTS, _OUTPUTS, _UNITS, _FILES = 3, 2, 3, 4, 6
_UNIT_KIND, _UNIT, _NORMALIZATION = 0, 1, 1
_FILE_NAME, _FILE_KIND, _LABELS = 0, 2, 2

#: Largest number of entries of a list that are read, more than any classifier has.
_MOST = 64


class StandardMetadata(NamedTuple):
    """Metadata of a file's first input and output.

    Attributes:
        mean: mean to subtract from pixels in [0, 255], one for each channel or one for all; None if
            it is not known.
        std: standard deviation to divide by after that.
        labels: class names; None if there are none.
    """

    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    labels: tuple[str, ...] | None = None


def standard_metadata(model: Any, path: Path) -> StandardMetadata:
    """Return the metadata of a TFLite model; `path` is its file.

    Raises:
        ValueError: the metadata is damaged.
    """
    contents = [model.buffers[x.buffer].data for x in model.metadata or [] if x.name == _ENTRY]
    if not contents or contents[0] is None:
        return StandardMetadata()
    content = bytes(contents[0])
    try:
        root = Table(content, encode.Get(number_types.UOffsetTFlags.packer_type, content, 0))
        graph = next(_tables(root, _SUBGRAPHS), None)
        if graph is None:
            return StandardMetadata()
        mean, std = _normalization(next(_tables(graph, _INPUTS), None))
        labels = _labels(next(_tables(graph, _OUTPUTS), None), path)
    except (struct.error, TypeError, IndexError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise ValueError(f"damaged metadata of TensorFlow Lite ({error})") from error
    return StandardMetadata(mean, std, labels)


def _normalization(tensor: Table | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    for unit in _tables(tensor, _UNITS) if tensor is not None else ():
        kind, place = _offset(unit, _UNIT_KIND), _offset(unit, _UNIT)
        if kind and place and unit.Bytes[unit.Pos + kind] == _NORMALIZATION:
            options = Table(unit.Bytes, unit.Indirect(unit.Pos + place))
            mean, std = _floats(options, 0), _floats(options, 1)
            if {mean.size, std.size} <= {1, 3} and (std > 0).all():
                return mean, std
    return None, None


def _labels(tensor: Table | None, path: Path) -> tuple[str, ...] | None:
    for file in _tables(tensor, _FILES) if tensor is not None else ():
        kind, name = _offset(file, _FILE_KIND), _offset(file, _FILE_NAME)
        if kind and name and file.Bytes[file.Pos + kind] == _LABELS:
            with opened_archive(path) as archive:
                text = archive.read(file.String(file.Pos + name).decode()).decode()
            return tuple(line.strip() for line in text.splitlines() if line.strip())
    return None


def _offset(table: Table, field: int) -> int:
    """Return the offset of a field in its table; 0 if the field is missing."""
    return table.Offset(4 + 2 * field)


def _tables(table: Table, field: int) -> Iterator[Table]:
    if place := _offset(table, field):
        start = table.Vector(place)
        for index in range(min(table.VectorLen(place), _MOST)):
            yield Table(table.Bytes, table.Indirect(start + 4 * index))


def _floats(table: Table, field: int) -> np.ndarray:
    place = _offset(table, field)
    count = min(table.VectorLen(place), _MOST) if place else 0
    start = table.Vector(place) if place else 0
    return np.frombuffer(table.Bytes[start : start + 4 * count], "<f4")
