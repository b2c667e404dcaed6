"""Reading records inside a pipeline: many at once, and what cannot be read never stops it."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_resnet.data.bad_records import BadRecords
from keras_resnet.data.sources.base import Source
from keras_resnet.images.decode import MAX_PIXELS, read_image
from keras_resnet.images.formats import plain_jpeg_size

#: What the data of a record is.
PIXELS, JPEG, PATH = 0, 1, 2

#: Data, height and width, kind of data, label, and whether there is an image.
_Row = tuple[bytes, tuple[int, int], int, int, bool]

#: One black pixel.
_EMPTY: _Row = (b"\0\0\0", (1, 1), PIXELS, 0, False)

#: The size of a JPEG stands within so many bytes, unless there is a thumbnail or a colour profile.
_HEAD = 4096


class _Reads:
    """The reads under way in this process; once it ends, later ones read nothing.

    A thread that needs Python after its end never comes back. TensorFlow would wait for it for ever
    where an iterator is there until then.
    """

    #: Without a read for so many seconds, pipelines are full.
    QUIET = 0.2

    #: A disk that does not answer, or a thread that takes batches, does not keep the process.
    LONGEST = 10.0

    def __init__(self) -> None:
        self.over = False
        self._lock, self._active, self._last = threading.Lock(), 0, 0.0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        self._note(1)
        try:
            yield
        finally:
            self._note(-1)

    def _note(self, change: int) -> None:
        with self._lock:
            self._active += change
            self._last = time.monotonic()

    def finish(self) -> None:
        """Waits until no pipeline reads any more."""
        self.over = True
        deadline = time.monotonic() + self.LONGEST
        while (now := time.monotonic()) < deadline:
            if not self._active and now - self._last > self.QUIET:
                break
            time.sleep(self.QUIET / 10)


_reads = _Reads()
atexit.register(_reads.finish)


class Reader:
    """Reads records of a source for `tf.numpy_function`."""

    def __init__(self, source: Source, bad: BadRecords, substitute: bool) -> None:
        """Reads nothing yet.

        Args:
            source: the records.
            bad: where those that cannot be read are noted.
            substitute: whether the next readable image of the source stands for a bad one, as in
                training; otherwise there is no image, as in evaluation.
        """
        self._source, self._bad, self._substitute = source, bad, substitute
        self._path_of = getattr(source, "path_of", None)

    def read(self, indices: np.ndarray, suspicious: bool = False) -> tuple[np.ndarray, ...]:
        """Reads records: of plain JPEGs the bytes, or the path if they are files, of others pixels.

        Files are left to TensorFlow, which reads them faster; the system is told to fetch them.

        Args:
            indices: `(n,)`, integers; -1 for none.
            suspicious: whether some of them turned out to be damaged: all are tried here then.

        Returns:
            `data`, objects `(n,)`: bytes of uint8 pixels or of a JPEG, or the path of one;
            `shapes`, int32 `(n, 2)`: height and width; `kinds`, int32 `(n,)`: `PIXELS`, `JPEG` or
            `PATH`; `labels`, int32 `(n,)`; `present`, bool `(n,)`: false for -1, and for a bad
            record without substitute.

        Raises:
            TooManyBadRecordsError: more are bad than `bad` puts up with.
        """
        with _reads.counted():
            rows = [
                self._row(int(index), suspicious) if index >= 0 and not _reads.over else _EMPTY
                for index in indices
            ]
        data, shapes, kinds, labels, present = zip(*rows, strict=True)
        objects = np.empty(len(rows), object)
        objects[:] = data
        numbers = (np.array(values, np.int32) for values in (shapes, kinds, labels))
        return (objects, *numbers, np.array(present))

    def _row(self, index: int, suspicious: bool) -> _Row:
        count = len(self._source)
        for candidate in range(index, index + (count if self._substitute else 1)):
            number = candidate % count
            try:
                if not suspicious and (row := self._of_file(number)):
                    return row
                data, label = self._source[number]
                if isinstance(data, bytes):
                    size = plain_jpeg_size(data, MAX_PIXELS)
                    # What is whole stays what it was, and so gives the same image.
                    if size is not None and not (suspicious and _is_damaged(data)):
                        return data, size, JPEG, label, True
                pixels = read_image(data)
            # Whatever a damaged file or a broken disk makes a library raise.
            except Exception as error:
                name = self._source.name_of(number)
                reason = str(error) or type(error).__name__
                self._bad.add(
                    name, reason.replace("Received: the given bytes", f"Received: {name}")
                )
                continue
            return pixels.tobytes(), pixels.shape[:2], PIXELS, label, True
        if self._substitute:
            raise ValueError(
                f"Expected at least one readable image. Received: {self._source.name}, where none "
                f"of {count} can be read"
            )
        return _EMPTY

    def _of_file(self, number: int) -> _Row | None:
        """The path of a record, if it is a plain JPEG and its size stands at its beginning."""
        if self._path_of is None or (path := self._path_of(number)) is None:
            return None
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 – faster
            size = plain_jpeg_size(file.read(_HEAD), MAX_PIXELS, whole=False)
            if size is not None and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        if size is None:
            return None
        return os.fsencode(path), size, PATH, int(self._source.labels[number]), True


def _is_damaged(data: bytes) -> bool:
    """Whether TensorFlow, which is stricter than Pillow in places, cannot decode a JPEG."""
    import tensorflow as tf

    try:
        tf.io.decode_jpeg(data, channels=3)
    except tf.errors.OpError:
        return True
    return False


def read_tensors(reader: Reader, indices: Any, suspicious: bool = False) -> tuple[Any, ...]:
    """Calls `Reader.read` inside a graph."""
    import tensorflow as tf

    types = (tf.string, tf.int32, tf.int32, tf.int32, tf.bool)
    read = functools.partial(reader.read, suspicious=suspicious)
    values = tf.numpy_function(read, [indices], types, stateful=True)
    count = indices.shape[0]
    shapes = ([count], [count, 2], [count], [count], [count])
    return tuple(tf.ensure_shape(value, shape) for value, shape in zip(values, shapes, strict=True))
