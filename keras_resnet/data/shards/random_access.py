"""Random access to the records of TFRecord files."""

from __future__ import annotations

import concurrent.futures
import os
import struct
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_resnet.support.placeholders import START, not_binary

#: A file stores, for each record, its length (uint64), a checksum of the length (uint32), its bytes
#: and a checksum of the bytes (uint32):
#: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
_HEADER, _FOOTER = 12, 4

#: Bytes that a file stores in addition to those of each record.
FRAME_BYTES = _HEADER + _FOOTER

#: Files kept open at most. Systems allow a process 1,024 by default, not all of them for data.
_OPEN_FILES = 256

#: Files that are scanned for records in parallel; most of the time is spent waiting for the disk.
_SCANS = 16


class TFRecordFiles:
    """The records of several TFRecord files, numbered in the order of the files; thread-safe.

    Unless the lengths of the records are given, the constructor finds the start of every record by
    one short read of each.

    Args:
        paths: the files.
        lengths: lengths of the records of each file in bytes, `(n,)`, if they are known.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is not a TFRecord file or is truncated.
    """

    def __init__(
        self, paths: Sequence[str | Path], lengths: Sequence[np.ndarray] | None = None
    ) -> None:
        self.paths = tuple(paths)
        if lengths is None:
            with concurrent.futures.ThreadPoolExecutor(_SCANS) as pool:
                lengths = list(pool.map(_lengths, self.paths))
        self._starts = np.concatenate([[0], np.cumsum([len(own) for own in lengths])])
        none = np.zeros(0, np.int64)
        self._lengths = np.concatenate([none, *lengths]).astype(np.int64)
        self._offsets = np.concatenate([none, *map(_offsets, lengths)])
        self._descriptors: dict[int, int] = {}
        weakref.finalize(self, _close, self._descriptors)

    def __len__(self) -> int:
        return len(self._offsets)

    def read(self, index: int) -> bytes:
        """Return the bytes of a record.

        Checksums are not verified; damaged images are found when they are decoded.

        Raises:
            IndexError: there are fewer records.
            OSError: the file cannot be read.
            ValueError: the file is shorter than when it was opened.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"Expected a record from 0 to {len(self) - 1}. Received: {index}")
        file = self._file_of(index)
        length, offset = int(self._lengths[index]), int(self._offsets[index])
        descriptor = self._descriptors.get(file)
        if descriptor is not None:
            data = os.pread(descriptor, length, offset)
        else:
            data = self._read_first(file, length, offset)
        if len(data) != length:
            raise ValueError(
                f"Expected a record of {length} bytes. Received: {len(data)} bytes from "
                f"{self.paths[file]}, which is shorter than before. Copy it again"
            )
        return data

    def name_of(self, index: int) -> str:
        """Return a record's name for reports: its file, and its number in the file, from 0."""
        file = self._file_of(index)
        return f"{self.paths[file]}: record {index - self._starts[file]}"

    def _read_first(self, file: int, length: int, offset: int) -> bytes:
        """Open a file and read from it; keep it open unless too many files are open."""
        descriptor = os.open(self.paths[file], os.O_RDONLY)
        kept = None
        try:
            data = os.pread(descriptor, length, offset)
            # Open files are never closed to make room for others, as another thread may be reading
            # from them. If two threads open the same file, one of them closes it again.
            if len(self._descriptors) < _OPEN_FILES:
                kept = self._descriptors.setdefault(file, descriptor)
        finally:
            if kept != descriptor:
                os.close(descriptor)
        return data

    def _file_of(self, index: int) -> int:
        return int(np.searchsorted(self._starts, index, side="right")) - 1


def _close(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    """Return the offsets of the records of a file in bytes, int64."""
    ends = np.cumsum(np.asarray(lengths, np.int64) + FRAME_BYTES)
    return ends - lengths - _FOOTER


def _lengths(path: str | Path) -> np.ndarray:
    """Return the lengths of the records of a file in bytes, int64."""
    lengths: list[int] = []
    position = 0
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        size = os.fstat(file.fileno()).st_size
        while position < size:
            header = os.pread(file.fileno(), _HEADER, position)
            length = struct.unpack("<Q", header[:8])[0] if len(header) == _HEADER else size
            if length > size - position - FRAME_BYTES:
                instead = not_binary(os.pread(file.fileno(), START, 0))
                reason = instead or (
                    f"which is truncated at record {len(lengths)} or not a TFRecord file"
                )
                raise ValueError(f"Expected a complete TFRecord file. Received: {path}, {reason}")
            lengths.append(length)
            position += length + FRAME_BYTES
    return np.array(lengths, np.int64)
