"""Records that cannot be read: named, counted, and too many of them refused."""

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
    """More records of a source cannot be read than was to be put up with."""


class BadRecords:
    """Collects, from any thread, which records a pipeline could not read.

    Attributes:
        found: name -> reason, in the order in which they were met.
        error: what was raised when they became too many; from a dataset, TensorFlow raises an
            `InvalidArgumentError` in its place.
    """

    def __init__(self, source: str, count: int, max_fraction: float) -> None:
        """Takes the name of the source, how many records it has, and how many may be bad."""
        self.found: dict[str, str] = {}
        self.error: TooManyBadRecordsError | None = None
        self._source, self._count, self._max_fraction = source, count, max_fraction
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.found)

    def add(self, name: str, reason: str) -> None:
        """Notes a record; logs it when it is met for the first time.

        Raises:
            TooManyBadRecordsError: these are too many.
        """
        with self._lock:
            is_new = name not in self.found
            self.found.setdefault(name, reason)
            if len(self.found) > self._max_fraction * self._count:
                self.error = TooManyBadRecordsError(str(self))
                raise self.error
        if is_new:
            said = reason if name in reason else f"{name}: {reason}"
            _log.warning("Skipped: %s", sentence(said))

    def __str__(self) -> str:
        # Names of files may be any bytes; TensorFlow's messages are text.
        names = [name.encode(errors="backslashreplace").decode() for name in self.found]
        return (
            f"Expected at most {self._max_fraction:.2%} unreadable images in {self._source}. "
            f"Received: {len(names)} of {self._count}: {some_of(names)}. "
            "`keras-resnet data scan` lists all; remove them, or raise `max_bad_fraction`"
        )


def read_good(
    source: Source, rows: Iterable[int], read: Callable[[int], T], max_fraction: float
) -> dict[int, T]:
    """Read images of a source in threads, and leave out those that cannot be read.

    Args:
        source: the images.
        rows: indices of those that are read.
        read: makes something of an index, or raises an `UnreadableImageError`.
        max_fraction: share of `rows` that may be unreadable.

    Returns:
        What `read` has made, by index, in the order of `rows`.

    Raises:
        TooManyBadRecordsError: more of them are.
    """
    rows = list(rows)
    bad = BadRecords(source.name, len(rows), max_fraction)

    def attempt(index: int) -> T | None:
        try:
            return read(index)
        except (UnreadableImageError, OSError) as error:
            bad.add(source.name_of(index), str(error))
            return None

    found = zip(rows, results_in_order(attempt, rows, 64), strict=True)
    good = {index: made for index, made in found if made is not None}
    if not good:
        raise TooManyBadRecordsError(str(bad))
    return good
