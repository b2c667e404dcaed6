"""Classes of the labels in TFRecord files of other origin."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from keras_resnet.data.shards.example import ClassFeatures, read_example
from keras_resnet.data.shards.random_access import TFRecordFiles
from keras_resnet.data.threads import map_in_threads
from keras_resnet.images.labels import imagenet_classes

#: Records of other origin whose ids are compared with ImageNet's.
_SAMPLE = 64

#: Threads that read records, and how many each takes at a time.
_READERS, _RECORDS_PER_TASK = 16, 256


class Classes(NamedTuple):
    """The interpretation of records' labels.

    Attributes:
        names: one name per class.
        ids: identifiers of the classes, if there are any.
        offset: the label in the records of the class with index 0.
        by_id: whether records are classified by their identifier and not by their label.
    """

    names: tuple[str, ...]
    ids: tuple[str, ...] | None
    offset: int
    by_id: bool = False

    def index_of(self, found: ClassFeatures) -> int | None:
        """Index of a record's class; None if it is not among them."""
        if self.by_id:
            return _imagenet_indices().get(found.synset)
        index = found.label - self.offset
        return index if 0 <= index < len(self.names) else None


def read_class_features(files: TFRecordFiles) -> Iterator[ClassFeatures]:
    """Read the class features of every record, in their order."""
    return map_in_threads(
        lambda index: read_example(files, index)[1],
        range(len(files)),
        workers=_READERS,
        chunk=_RECORDS_PER_TASK,
    )


def classes_of(parts: Sequence[TFRecordFiles]) -> tuple[Classes, list[np.ndarray | None]]:
    """The classes of records of unknown origin.

    Args:
        parts: training and validation, or one of them; none is empty.

    Returns:
        The classes; and for each part the labels, `(n,)`, int32, or None where they are not known
        without reading everything.

    Raises:
        ValueError: features are missing.
        OSError: a file cannot be read.
    """
    sample = [
        read_example(part, index)[1].synset
        for part in parts
        for index in np.unique(np.linspace(0, len(part) - 1, _SAMPLE).astype(int)).tolist()
    ]
    if all(synset in _imagenet_indices() for synset in sample):
        ids, names = zip(*imagenet_classes(), strict=True)
        return Classes(names, ids, 1, by_id=True), [None] * len(parts)
    labels: list[np.ndarray] = []
    synsets: dict[int, str] = {}
    texts: dict[int, str] = {}
    for part in parts:
        own = np.zeros(len(part), np.int64)
        for index, found in enumerate(read_class_features(part)):
            own[index] = found.label
            synsets.setdefault(found.label, found.synset)
            texts.setdefault(found.label, found.text)
        labels.append(own)
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
            f"Expected labels that count classes. Received: {greatest} as image/class/label, among "
            f"only {count} records"
        )
    ids = tuple(synsets.get(number, "") for number in numbers)
    names = tuple(
        texts.get(number) or synsets.get(number) or str(number - offset) for number in numbers
    )
    classes = Classes(names, ids if all(ids) else None, offset)
    return classes, [(own - offset).astype(np.int32) for own in labels]


@functools.cache
def _imagenet_indices() -> dict[str, int]:
    return {wordnet_id: index for index, (wordnet_id, _) in enumerate(imagenet_classes())}
