"""What the records of TFRecord files say, and which classes their labels stand for."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import google.protobuf.message  # type: ignore[import-untyped]
import numpy as np
import tensorflow as tf

from keras_resnet.data.shards.random_access import TFRecordFiles
from keras_resnet.images.labels import imagenet_classes

_ENCODED, _LABEL = "image/encoded", "image/class/label"
_SYNSET, _TEXT = "image/class/synset", "image/class/text"

#: Records of other origin whose ids are compared with ImageNet's.
_SAMPLE = 64

#: Threads that read records, and how many each takes at a time.
_READERS, _RECORDS_PER_TASK = 16, 256


class Parsed(NamedTuple):
    """What a record says about its class.

    Attributes:
        label: its number, as it stands there.
        synset: its identifier, or "".
        text: its name, or "".
    """

    label: int
    synset: str
    text: str


@dataclass(frozen=True)
class Classes:
    """How records' labels are understood.

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

    def index_of(self, parsed: Parsed) -> int | None:
        """Index of a record's class; None if it is not among them."""
        if self.by_id:
            return _imagenet_indices().get(parsed.synset)
        index = parsed.label - self.offset
        return index if 0 <= index < len(self.names) else None


def parse(record: bytes, where: Callable[[], str]) -> tuple[bytes, Parsed]:
    """The image file in a record and what is said about its class.

    Args:
        record: a serialized `tf.train.Example`.
        where: gives what errors call it.

    Raises:
        ValueError: it is none, or lacks a feature.
    """
    try:
        features = tf.train.Example.FromString(record).features.feature
    except google.protobuf.message.DecodeError as error:
        raise ValueError(
            f"Expected a record that is a tf.train.Example. Received: another one, {where()}"
        ) from error
    # Asking a protocol buffer's map for what is not there would add it.
    encoded: Any = features[_ENCODED].bytes_list.value if _ENCODED in features else ()
    label: Any = features[_LABEL].int64_list.value if _LABEL in features else ()
    if len(encoded) != 1 or len(label) != 1:
        _refuse(features, where())
    return encoded[0], Parsed(label[0], _text(features, _SYNSET), _text(features, _TEXT))


def read_parsed(files: TFRecordFiles) -> Iterator[Parsed]:
    """What every record says about its class, in their order."""

    def read(indices: range) -> list[Parsed]:
        return [_parsed(files, index) for index in indices]

    count = len(files)
    tasks = [
        range(start, min(start + _RECORDS_PER_TASK, count))
        for start in range(0, count, _RECORDS_PER_TASK)
    ]
    pool = concurrent.futures.ThreadPoolExecutor(_READERS)
    try:
        yield from itertools.chain.from_iterable(pool.map(read, tasks))
    finally:
        pool.shutdown(cancel_futures=True)


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
        _parsed(part, index)
        for part in parts
        for index in np.unique(np.linspace(0, len(part) - 1, _SAMPLE).astype(int)).tolist()
    ]
    if all(parsed.synset in _imagenet_indices() for parsed in sample):
        ids, names = zip(*imagenet_classes(), strict=True)
        return Classes(names, ids, 1, by_id=True), [None] * len(parts)
    labels: list[np.ndarray] = []
    synsets: dict[int, str] = {}
    texts: dict[int, str] = {}
    for part in parts:
        own = np.zeros(len(part), np.int64)
        for index, parsed in enumerate(read_parsed(part)):
            own[index] = parsed.label
            synsets.setdefault(parsed.label, parsed.synset)
            texts.setdefault(parsed.label, parsed.text)
        labels.append(own)
    return _numbered(labels, synsets, texts)


def _numbered(
    labels: Sequence[np.ndarray], synsets: dict[int, str], texts: dict[int, str]
) -> tuple[Classes, list[np.ndarray | None]]:
    least = min(int(own.min()) for own in labels)
    if least < 0:
        raise ValueError(f"Expected labels of at least 0. Received: {least} as {_LABEL}")
    offset = min(least, 1)
    numbers = range(offset, max(int(own.max()) for own in labels) + 1)
    if len(numbers) > sum(map(len, labels)):
        raise ValueError(
            f"Expected labels that count classes. Received: {numbers[-1]} as {_LABEL}, among only "
            f"{sum(map(len, labels))} records"
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


def _parsed(files: TFRecordFiles, index: int) -> Parsed:
    return parse(files.read(index), lambda: files.name_of(index))[1]


def _text(features: Any, name: str) -> str:
    values: Any = features[name].bytes_list.value if name in features else ()
    return values[0].decode(errors="replace") if len(values) == 1 else ""


def _refuse(features: Any, where: str) -> NoReturn:
    kinds = {"bytes_list": "bytes", "int64_list": "int64", "float_list": "float", None: "empty"}
    found = []
    for name in sorted(features)[:20]:
        kind = features[name].WhichOneof("kind")
        count = len(getattr(features[name], kind).value) if kind else 0
        found.append(f"{name} ({count} {kinds[kind]})")
    raise ValueError(
        f"Expected the features {_ENCODED} (1 bytes) and {_LABEL} (1 int64). Received: "
        f"{', '.join(found) or 'no features'} in {where}"
    )
