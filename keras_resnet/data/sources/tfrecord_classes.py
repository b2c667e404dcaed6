"""Classes of the labels in TFRecord files that `data prepare` did not write."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from keras_resnet.data.shards.example import ClassFeatures, read_example
from keras_resnet.data.shards.random_access import TFRecordFiles
from keras_resnet.data.threads import map_in_threads
from keras_resnet.images.labels import imagenet_classes

#: Records whose synsets are compared with ImageNet's WordNet ids.
_SAMPLE = 64

#: Threads that read records, and records per task.
_READERS, _RECORDS_PER_TASK = 16, 256


class Classes(NamedTuple):
    """The classes of records, and the interpretation of their labels.

    Attributes:
        names: one name per class.
        ids: identifiers of the classes, or None.
        offset: label in the records of the class with index 0.
        by_id: whether the class of a record is given by its synset instead of its label.
    """

    names: tuple[str, ...]
    ids: tuple[str, ...] | None
    offset: int
    by_id: bool = False

    def index_of(self, found: ClassFeatures) -> int | None:
        """Return the index of a record's class; None if it is not one of the classes."""
        if self.by_id:
            return _imagenet_indices().get(found.synset)
        index = found.label - self.offset
        return index if 0 <= index < len(self.names) else None


def read_class_features(files: TFRecordFiles) -> Iterator[ClassFeatures]:
    """Yield the class features of every record, in order."""
    return map_in_threads(
        lambda index: read_example(files, index)[1],
        range(len(files)),
        workers=_READERS,
        chunk=_RECORDS_PER_TASK,
    )


def classes_of(splits: Sequence[TFRecordFiles]) -> tuple[Classes, list[np.ndarray | None]]:
    """Return the classes of the records of one data set.

    Args:
        splits: the training split, the validation split, or both; not empty.

    Returns:
        The classes; and the labels of each split, `(n,)`, int32, or None if finding the classes has
        not read them.

    Raises:
        ValueError: features are missing.
        OSError: a file cannot be read.
    """
    sample = [
        read_example(split, index)[1].synset
        for split in splits
        for index in np.unique(np.linspace(0, len(split) - 1, _SAMPLE).astype(int)).tolist()
    ]
    if all(synset in _imagenet_indices() for synset in sample):
        ids, names = zip(*imagenet_classes(), strict=True)
        return Classes(names, ids, 1, by_id=True), [None] * len(splits)
    labels: list[np.ndarray] = []
    synsets: dict[int, str] = {}
    texts: dict[int, str] = {}
    for split in splits:
        of_split = np.zeros(len(split), np.int64)
        for index, found in enumerate(read_class_features(split)):
            of_split[index] = found.label
            synsets.setdefault(found.label, found.synset)
            texts.setdefault(found.label, found.text)
        labels.append(of_split)
    return _numbered(labels, synsets, texts)


def _numbered(
    labels: Sequence[np.ndarray], synsets: dict[int, str], texts: dict[int, str]
) -> tuple[Classes, list[np.ndarray | None]]:
    least, greatest, count = min(synsets), max(synsets), sum(map(len, labels))
    if least < 0:
        raise ValueError(f"Expected labels of at least 0. Received: {least} as image/class/label")
    offset = min(least, 1)
    numbers = range(offset, greatest + 1)
    if len(numbers) > count:
        raise ValueError(
            f"Expected labels below the number of records. Received: {greatest} as "
            f"image/class/label, in {count} records"
        )
    ids = tuple(synsets.get(number, "") for number in numbers)
    names = tuple(
        texts.get(number) or synsets.get(number) or str(number - offset) for number in numbers
    )
    classes = Classes(names, ids if all(ids) else None, offset)
    return classes, [(of_split - offset).astype(np.int32) for of_split in labels]


@functools.cache
def _imagenet_indices() -> dict[str, int]:
    return {wordnet_id: index for index, (wordnet_id, _) in enumerate(imagenet_classes())}
