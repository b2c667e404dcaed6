"""TFRecord files that are read in any order: each record by its place."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

import numpy as np

#: A record is its length (uint64), a checksum of that (uint32), its bytes and their checksum
#: (uint32): https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
_HEADER, _FOOTER = 12, 4


class TFRecordFiles:
    """The records of several files, numbered in the order of the files.

    Finding where records start needs one short read of each, once.

    Attributes:
        paths: the files.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        """Finds the records.

        Raises:
            OSError: a file cannot be read.
            ValueError: a file is no TFRecord file or is truncated.
        """
        self.paths = tuple(paths)
        found = [_offsets(path) for path in self.paths]
        self._starts = np.concatenate([[0], np.cumsum([len(offsets) for offsets, _ in found])])
        self._offsets = np.concatenate([np.zeros(0, np.int64), *(offsets for offsets, _ in found)])
        self._lengths = np.concatenate([np.zeros(0, np.int64), *(lengths for _, lengths in found)])

    def __len__(self) -> int:
        return len(self._offsets)

    def read(self, index: int) -> bytes:
        """The bytes of one record. Checksums are not compared; decoders find what is damaged.

        Raises:
            OSError: the file cannot be read.
            ValueError: it has become shorter.
        """
        path = self.paths[self._file_of(index)]
        length = int(self._lengths[index])
        descriptor = os.open(path, os.O_RDONLY)
        try:
            data = os.pread(descriptor, length, int(self._offsets[index]))
        finally:
            os.close(descriptor)
        if len(data) != length:
            raise ValueError(f"Expected {length} bytes of a record. Received: {len(data)}, {path}")
        return data

    def name_of(self, index: int) -> str:
        """The file and the number of the record in it, from 0."""
        file = self._file_of(index)
        return f"{self.paths[file]}: record {index - self._starts[file]}"

    def _file_of(self, index: int) -> int:
        return int(np.searchsorted(self._starts, index, side="right")) - 1


def _offsets(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Where the bytes of each record start, and how many there are: int64."""
    offsets: list[int] = []
    lengths: list[int] = []
    position = 0
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        size = os.fstat(file.fileno()).st_size
        while position < size:
            header = os.pread(file.fileno(), _HEADER, position)
            length = struct.unpack("<Q", header[:8])[0] if len(header) == _HEADER else size
            position += _HEADER
            if length > size - position - _FOOTER:
                raise ValueError(
                    "Expected a whole TFRecord file. Received: "
                    f"{path}, which is none or ends within record {len(offsets)}"
                )
            offsets.append(position)
            lengths.append(length)
            position += length + _FOOTER
    return np.array(offsets, np.int64), np.array(lengths, np.int64)
