"""The interface of a source of labelled images, and its division into parts."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from keras_resnet.data.config import check_fraction
from keras_resnet.support.checks import some_of


class Record(NamedTuple):
    """One labelled image.

    Attributes:
        data: the contents of an image file, or pixels `(height, width, 3)`, uint8, RGB.
        label: index into the source's `class_names`.
    """

    data: bytes | np.ndarray
    label: int


class Source(Protocol):
    """Labelled images that can be read in any order, from several threads at once.

    Order, shuffling, shards and resuming are arithmetic with indices, and only what is in flight is
    in memory.

    A source of files may have a method `path_of(index)` besides: the path of the file that holds
    the data of a record and nothing else, or None. TensorFlow then reads it faster than Python. One
    of files with several records each may have `files`, their paths. Both tell `identity_of` when
    the data change.
    """

    @property
    def name(self) -> str:
        """The name in reports, such as `folder:flowers/train`."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class, in the order of the labels."""

    @property
    def class_ids(self) -> tuple[str, ...] | None:
        """Identifiers of the classes, such as WordNet's, if there are any."""

    @property
    def labels(self) -> np.ndarray:
        """Label of every record: `(n,)`, int32. Of TFRecords, that may need to read them all."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Reads a record.

        Raises:
            OSError: its file cannot be read.
            ValueError: what is there is no record.
        """

    def name_of(self, index: int) -> str:
        """Return a record's name in reports: its path, or its place in a larger file."""


@dataclass(frozen=True)
class Subset:
    """Some records of another source, as a source; `indices` says which: `(n,)`, int64."""

    source: Source
    indices: np.ndarray
    name: str

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.source.class_names

    @property
    def class_ids(self) -> tuple[str, ...] | None:
        return self.source.class_ids

    @functools.cached_property
    def labels(self) -> np.ndarray:
        labels: np.ndarray = self.source.labels[self.indices]
        return labels

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        return self.source[int(self.indices[index])]

    def name_of(self, index: int) -> str:
        return self.source.name_of(int(self.indices[index]))

    def path_of(self, index: int) -> str | None:
        path_of = getattr(self.source, "path_of", None)
        return None if path_of is None else path_of(int(self.indices[index]))


@dataclass(frozen=True)
class Union:
    """Several parts of one data set as a source: the records of the first, then of the next."""

    parts: tuple[Source, ...]
    name: str

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.parts[0].class_names

    @property
    def class_ids(self) -> tuple[str, ...] | None:
        return self.parts[0].class_ids

    @functools.cached_property
    def labels(self) -> np.ndarray:
        return np.concatenate([part.labels for part in self.parts])

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: int) -> Record:
        part, place = self._find(index)
        return part[place]

    def name_of(self, index: int) -> str:
        part, place = self._find(index)
        return part.name_of(place)

    def _find(self, index: int) -> tuple[Source, int]:
        """The part that has a record, and its place there."""
        for part in self.parts:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError(index)


def stratified_split(source: Source, fraction: float, seed: int) -> tuple[Source, Source]:
    """Divides a source so that both parts have the same share of every class.

    The parts depend on the labels, the fraction and the seed alone.

    Args:
        source: the records.
        fraction: of them that the second part gets, between 0 and 1.
        seed: which ones.

    Raises:
        ValueError: a class has too few records for that.
    """
    import sklearn.model_selection

    check_fraction("validation_fraction", fraction)
    labels = source.labels
    few = sorted(
        source.class_names[label] for label, n in Counter(labels.tolist()).items() if n < 2
    )
    if few:
        raise ValueError(
            "Expected at least 2 images of every class, to divide them into training and "
            f"validation. Received: 1 image in {some_of(few)} of {source.name}"
        )
    try:
        parts = sklearn.model_selection.train_test_split(
            np.arange(len(labels)), test_size=fraction, stratify=labels, random_state=seed
        )
    except ValueError as error:
        raise ValueError(
            f"Expected enough images in {source.name} to put {fraction:.0%} of every class aside "
            f"for validation. Received: {len(labels)} images of {len(set(labels.tolist()))} "
            "classes. Choose another `validation_fraction`"
        ) from error
    # In the order of the source: neighbours in a file stay neighbours.
    train, validation = (np.sort(part) for part in parts)
    return (
        Subset(source, train, f"{source.name} (training part)"),
        Subset(source, validation, f"{source.name} (validation part)"),
    )
