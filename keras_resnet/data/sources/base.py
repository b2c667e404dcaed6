"""The interface of a source of labeled images, and its division into splits."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from keras_resnet.data.config import check_fraction
from keras_resnet.support.checks import some_of


class Record(NamedTuple):
    """A labeled image.

    Attributes:
        data: contents of an image file, or pixels `(height, width, 3)`, uint8, RGB in [0, 255].
        label: index into the source's `class_names`.
    """

    data: bytes | np.ndarray
    label: int


class Source(Protocol):
    """A thread-safe collection of labeled images that can be read in any order.

    Pipelines shuffle, shard and resume with indices, and hold only those records in memory that
    they are reading.

    Any object with these members is a source. Two further members are optional. `path_of(index)`
    returns the path of the file that holds nothing but the data of a record, or None; TensorFlow
    reads such files faster than Python. `files` are the paths of files that hold several records
    each. `identity_of` uses both to notice that the data have changed.

    Examples:

    ```python
    train, validation = load_data("folder:flowers")
    image, label = train[0]
    train.class_names[label]
    ```
    """

    @property
    def name(self) -> str:
        """Name in reports, such as `folder:flowers/train`."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class, in the order of the labels."""

    @property
    def class_ids(self) -> tuple[str, ...] | None:
        """Identifiers of the classes, such as WordNet ids; None if there are none."""

    @property
    def labels(self) -> np.ndarray:
        """Label of every record, `(n,)`, int32. For TFRecord files, may read all records."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Read a record.

        Raises:
            OSError: the file cannot be read.
            ValueError: the record is damaged.
        """

    def name_of(self, index: int) -> str:
        """Return a record's name in reports: its path, or its position in a larger file."""


@dataclass(frozen=True)
class Subset:
    """A source of some records of another source.

    Args:
        source: the other source.
        indices: indices of the records, `(n,)`, int64.
        name: name in reports.
    """

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
    """A source of the records of several splits of one data set, one after the other.

    Args:
        splits: the splits, which have the same classes.
        name: name in reports.
    """

    splits: tuple[Source, ...]
    name: str

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.splits[0].class_names

    @property
    def class_ids(self) -> tuple[str, ...] | None:
        return self.splits[0].class_ids

    @functools.cached_property
    def labels(self) -> np.ndarray:
        return np.concatenate([split.labels for split in self.splits])

    def __len__(self) -> int:
        return sum(map(len, self.splits))

    def __getitem__(self, index: int) -> Record:
        split, index = self._find(index)
        return split[index]

    def name_of(self, index: int) -> str:
        split, index = self._find(index)
        return split.name_of(index)

    def _find(self, index: int) -> tuple[Source, int]:
        """Return the split that contains a record, and the record's index in it."""
        for split in self.splits:
            if index < len(split):
                return split, index
            index -= len(split)
        raise IndexError(index)


def stratified_split(source: Source, fraction: float, seed: int) -> tuple[Source, Source]:
    """Divide a source into a training and a validation split with the same shares of all classes.

    The splits depend only on the labels, the fraction and the seed.

    Args:
        source: the records.
        fraction: share of the records in the validation split, above 0 and below 1.
        seed: seed of the choice of records.

    Raises:
        ValueError: a class has too few records.
    """
    import sklearn.model_selection

    check_fraction("validation_fraction", fraction)
    labels = source.labels
    few = sorted(
        source.class_names[label] for label, n in Counter(labels.tolist()).items() if n < 2
    )
    if few:
        raise ValueError(
            "Expected at least 2 images of every class, to divide them into a training and a "
            f"validation split. Received: 1 image of {some_of(few)} in {source.name}. Add images, "
            "or remove the class"
        )
    try:
        splits = sklearn.model_selection.train_test_split(
            np.arange(len(labels)), test_size=fraction, stratify=labels, random_state=seed
        )
    except ValueError as error:
        raise ValueError(
            f"Expected enough images in {source.name} for a validation split of {fraction:.0%} of "
            f"every class. Received: {len(labels)} images of {len(set(labels.tolist()))} classes. "
            "Choose another `validation_fraction`"
        ) from error
    # Keep the order of the source, which is fast to read.
    train, validation = (np.sort(split) for split in splits)
    return (
        Subset(source, train, f"{source.name} (training part)"),
        Subset(source, validation, f"{source.name} (validation part)"),
    )
