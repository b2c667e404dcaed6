"""Reading records inside a pipeline: many at once, and what cannot be read never stops it."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_resnet.data.bad_records import BadRecords
from keras_resnet.data.sources.base import Source
from keras_resnet.image_formats import plain_jpeg_size
from keras_resnet.images import MAX_PIXELS, read_image

#: Bytes, height and width, whether the bytes are a JPEG, label, and whether there is an image.
_Row = tuple[bytes, tuple[int, int], bool, int, bool]

#: One black pixel.
_EMPTY: _Row = (b"\0\0\0", (1, 1), False, 0, False)


class Reader:
    """Reads records of a source for `tf.numpy_function`."""

    def __init__(self, source: Source, bad: BadRecords, substitute: bool) -> None:
        """Takes the source, where bad records are noted, and what stands for them.

        Args:
            source: the records.
            bad: where those that cannot be read are noted.
            substitute: whether the next readable image of the source stands for a bad one, as in
                training; otherwise there is no image, as in evaluation.
        """
        self._source, self._bad, self._substitute = source, bad, substitute

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, ...]:
        """Reads records: the bytes of plain JPEGs as they are, of all else the pixels.

        Args:
            indices: `(n,)`, integers; -1 for none.

        Returns:
            `data`, objects `(n,)`: bytes of a JPEG or of uint8 pixels; `shapes`, int32 `(n, 2)`:
            height and width; `encoded`, bool `(n,)`: whether it is a JPEG; `labels`, int32 `(n,)`;
            `present`, bool `(n,)`: false for -1, and for a bad record without substitute.

        Raises:
            TooManyBadRecordsError: more are bad than `bad` puts up with.
        """
        return self._read(indices, decode=False)

    def rescue(self, indices: np.ndarray) -> tuple[np.ndarray, ...]:
        """The same of records of which some turned out to be damaged: all are decoded here."""
        return self._read(indices, decode=True)

    def _read(self, indices: np.ndarray, decode: bool) -> tuple[np.ndarray, ...]:
        rows = [self._row(int(index), decode) if index >= 0 else _EMPTY for index in indices]
        data, shapes, encoded, labels, present = zip(*rows, strict=True)
        objects = np.empty(len(rows), object)
        objects[:] = data
        shapes = np.array(shapes, np.int32)
        return objects, shapes, np.array(encoded), np.array(labels, np.int32), np.array(present)

    def _row(self, index: int, decode: bool) -> _Row:
        count = len(self._source)
        for candidate in range(index, index + (count if self._substitute else 1)):
            number = candidate % count
            try:
                data, label = self._source[number]
                if isinstance(data, bytes) and not decode:
                    size = plain_jpeg_size(data, MAX_PIXELS)
                    if size is not None:
                        return data, size, True, label, True
                pixels = read_image(data)
            # Whatever a damaged file or a broken disk makes a library raise.
            except Exception as error:
                self._bad.add(self._source.name_of(number), str(error) or type(error).__name__)
                continue
            return pixels.tobytes(), pixels.shape[:2], False, label, True
        return _EMPTY


def read_tensors(function: Any, indices: Any) -> tuple[Any, ...]:
    """Calls `Reader.read` or `Reader.rescue` inside a graph."""
    import tensorflow as tf

    types = (tf.string, tf.int32, tf.bool, tf.int32, tf.bool)
    values = tf.numpy_function(function, [indices], types, stateful=True)
    count = indices.shape[0]
    shapes = ([count], [count, 2], [count], [count], [count])
    return tuple(tf.ensure_shape(value, shape) for value, shape in zip(values, shapes, strict=True))
