"""Reading of records inside a pipeline, in chunks; unreadable records do not end the pipeline."""

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

#: Kinds of data of a record: decoded pixels, the bytes of a JPEG, or the path of a JPEG file.
PIXELS, JPEG, PATH = 0, 1, 2

#: A record as `Reader` reads it: data, height and width, kind of data, label, whether present.
_Item = tuple[bytes, tuple[int, int], int, int, bool]

#: The item for a missing image: one black pixel.
_EMPTY: _Item = (b"\0\0\0", (1, 1), PIXELS, 0, False)

#: Bytes at the start of a JPEG file that usually hold its size; a thumbnail or a color profile may
#: push it further back.
_HEAD = 4096


class _ActiveReads:
    """Counter of the reads in progress; stops all reads when the process ends.

    A thread that calls Python after the interpreter has ended never returns, and TensorFlow would
    wait for it forever if an iterator still exists then.
    """

    #: Seconds without a read after which all pipelines are assumed to be full.
    QUIET = 0.2

    #: Seconds to wait at most, so that a disk that does not answer cannot keep the process alive.
    LONGEST = 10.0

    def __init__(self) -> None:
        self.are_over = False
        self._lock, self._active, self._last = threading.Lock(), 0, 0.0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            self._active += change
            self._last = time.monotonic()

    def finish(self) -> None:
        """Stop later reads, and wait until those in progress have ended."""
        self.are_over = True
        deadline = time.monotonic() + self.LONGEST
        while (now := time.monotonic()) < deadline:
            if not self._active and now - self._last > self.QUIET:
                break
            time.sleep(self.QUIET / 10)


_reads = _ActiveReads()
atexit.register(_reads.finish)


class Reader:
    """Reader of a source's records, for `tf.numpy_function`.

    Args:
        source: the records.
        bad: collects the records that cannot be read.
        substitute: whether an unreadable record is replaced by the next readable one, as in
            training, or becomes a missing image, as in evaluation.
    """

    def __init__(self, source: Source, bad: BadRecords, substitute: bool) -> None:
        self._source, self._bad, self._substitute = source, bad, substitute
        self._path_of = getattr(source, "path_of", None)

    def read(self, indices: np.ndarray, suspicious: bool = False) -> tuple[np.ndarray, ...]:
        """Read several records; only images that are not plain JPEGs are decoded here.

        Plain JPEG files are returned as paths: TensorFlow reads them faster than Python, and the
        operating system is asked to fetch them in advance.

        Args:
            indices: `(n,)`, integers; -1 for no image.
            suspicious: whether one of the records is damaged, so that all have to be tested.

        Returns:
            `data`, object `(n,)`: uint8 pixels, the bytes of a JPEG, or the path of a JPEG file;
            `shapes`, int32 `(n, 2)`: height and width; `kinds`, int32 `(n,)`: `PIXELS`, `JPEG` or
            `PATH`; `labels`, int32 `(n,)`; `present`, bool `(n,)`: false for -1 and for an
            unreadable record without substitute.

        Raises:
            TooManyBadRecordsError: more records are unreadable than `bad` allows.
        """
        with _reads.counted():
            items = [
                self._item(int(index), suspicious) if index >= 0 and not _reads.are_over else _EMPTY
                for index in indices
            ]
        data, shapes, kinds, labels, present = zip(*items, strict=True)
        objects = np.empty(len(items), object)
        objects[:] = data
        numbers = (np.array(values, np.int32) for values in (shapes, kinds, labels))
        return (objects, *numbers, np.array(present))

    def _item(self, index: int, suspicious: bool) -> _Item:
        count = len(self._source)
        for candidate in range(index, index + (count if self._substitute else 1)):
            number = candidate % count
            try:
                if not suspicious and (item := self._file_item(number)):
                    return item
                data, label = self._source[number]
                if isinstance(data, bytes):
                    size = plain_jpeg_size(data, MAX_PIXELS)
                    # An undamaged JPEG is decoded by TensorFlow as always, to the same pixels.
                    if size is not None and not (suspicious and _is_damaged(data)):
                        return data, size, JPEG, label, True
                pixels = read_image(data)
            # Damaged files and broken disks make libraries raise all kinds of errors.
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
                f"Expected at least one readable image. Received: {self._source.name}, whose "
                f"{count} images cannot be read"
            )
        return _EMPTY

    def _file_item(self, number: int) -> _Item | None:
        """Return a record by its path if it is a plain JPEG file with its size near the start."""
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
    """Return whether TensorFlow, which is sometimes stricter than Pillow, cannot decode a JPEG."""
    import tensorflow as tf

    try:
        tf.io.decode_jpeg(data, channels=3)
    except tf.errors.OpError:
        return True
    return False


def read_tensors(reader: Reader, indices: Any, suspicious: bool = False) -> tuple[Any, ...]:
    """Call `Reader.read` inside a TensorFlow graph."""
    import tensorflow as tf

    types = (tf.string, tf.int32, tf.int32, tf.int32, tf.bool)
    read = functools.partial(reader.read, suspicious=suspicious)
    values = tf.numpy_function(read, [indices], types, stateful=True)
    count = indices.shape[0]
    shapes = ([count], [count, 2], [count], [count], [count])
    return tuple(tf.ensure_shape(value, shape) for value, shape in zip(values, shapes, strict=True))
