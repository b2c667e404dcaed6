"""Collection of unreadable records, with an error if there are too many."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from keras_resnet.images.decode import UnreadableImageError
from keras_resnet.support.ahead import results_in_order
from keras_resnet.support.checks import some_of
from keras_resnet.support.text import sentence

if TYPE_CHECKING:
    from keras_resnet.data.sources.base import Source

_log = logging.getLogger(__name__)

T = TypeVar("T")


class TooManyBadRecordsError(ValueError):
    """Raised when more records of a source are unreadable than `max_bad_fraction` allows."""


class BadRecords:
    """Thread-safe collection of the records that a pipeline could not read.

    Args:
        source: name of the source, for messages.
        count: number of records of the source.
        max_fraction: share of the records that may be unreadable, 0 to 1.

    Attributes:
        found: name of each unreadable record -> reason, in the order in which they were found.
        error: the `TooManyBadRecordsError` that was raised, or None. TensorFlow turns an error
            inside a dataset into an `InvalidArgumentError`; this is the original one.
    """

    def __init__(self, source: str, count: int, max_fraction: float) -> None:

        self.found: dict[str, str] = {}
        self.error: TooManyBadRecordsError | None = None
        self._source, self._count, self._max_fraction = source, count, max_fraction
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.found)

    def add(self, name: str, reason: str) -> None:
        """Add a record, and log a warning if it is new.

        Args:
            name: the name of the record.
            reason: why it cannot be read.

        Raises:
            TooManyBadRecordsError: too many records are unreadable.
        """
        with self._lock:
            is_new = name not in self.found
            self.found.setdefault(name, reason)
            if len(self.found) > self._max_fraction * self._count:
                self.error = TooManyBadRecordsError(str(self))
                raise self.error
        if is_new:
            text = reason if name in reason else f"{name}: {reason}"
            _log.warning("Skipped: %s", sentence(text))

    def __str__(self) -> str:
        # File names may be arbitrary bytes; messages in TensorFlow must be valid text.
        names = [name.encode(errors="backslashreplace").decode() for name in self.found]
        return (
            f"Expected at most {self._max_fraction:.2%} unreadable images in {self._source}. "
            f"Received: {len(names)} of {self._count}: {some_of(names)}. "
            "`keras-resnet data scan` lists all of them. Remove them, or raise `max_bad_fraction`"
        )


def read_good(
    source: Source, indices: Iterable[int], read: Callable[[int], T], max_fraction: float
) -> dict[int, T]:
    """Read images of a source in threads, and leave out those that cannot be read.

    Args:
        source: the images.
        indices: indices of the images to read.
        read: function of an index, which may raise `UnreadableImageError` or `OSError`.
        max_fraction: share of `indices` that may be unreadable, 0 to 1.

    Returns:
        Index -> result of `read`, in the order of `indices`.

    Raises:
        TooManyBadRecordsError: a larger share, or every image, is unreadable.
    """
    indices = list(indices)
    bad = BadRecords(source.name, len(indices), max_fraction)

    def attempt(index: int) -> T | None:
        try:
            return read(index)
        except (UnreadableImageError, OSError) as error:
            bad.add(source.name_of(index), str(error))
            return None

    results = zip(indices, results_in_order(attempt, indices, 64), strict=True)
    good = {index: result for index, result in results if result is not None}
    if not good:
        raise TooManyBadRecordsError(str(bad))
    return good
