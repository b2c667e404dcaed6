"""TFRecord files of images: those of `data prepare`, and others with ImageNet's features."""

from __future__ import annotations

import functools
import glob
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_resnet.data.config import DataConfig
from keras_resnet.data.shards.format import DATASET_FILE
from keras_resnet.data.shards.random_access import TFRecordFiles
from keras_resnet.data.sources.base import Record, Source, Subset
from keras_resnet.data.sources.tfrecord_classes import (
    Classes,
    Parsed,
    classes_of,
    parse,
    read_parsed,
)
from keras_resnet.data.sources.tfrecord_dataset import Dataset, read_dataset

#: How the names of the validation part's files start; the first that is there is taken.
VALIDATION_STARTS = ("validation", "val", "test")

#: Suffixes of what lies beside TFRecord files in the same directory.
_OTHER_SUFFIXES = frozenset({".json", ".npy", ".sha256", ".txt", ".md", ".csv", ".pbtxt"})

_NUMBERED = re.compile(r"(?P<before>.*)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<after>.*)")


class _Files(NamedTuple):
    train: list[Path]
    validation: list[Path]


class TFRecordImages:
    """Images in TFRecord files, read one by one in any order.

    Attributes:
        name: what reports call them.
        class_names: one name per class.
        class_ids: identifiers of the classes, if there are any.
    """

    def __init__(
        self, files: TFRecordFiles, classes: Classes, name: str, labels: np.ndarray | None = None
    ) -> None:
        """Reads nothing yet.

        Args:
            files: where the records are.
            classes: how their labels are understood.
            name: what reports call them.
            labels: `(n,)`, int32, if they are known.
        """
        self._files, self._classes, self._labels = files, classes, labels
        self.name = name
        self.class_names, self.class_ids = classes.names, classes.ids

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Label of every record: `(n,)`, int32. Unless they are known, all records are read."""
        if self._labels is not None:
            return self._labels
        parsed = read_parsed(self._files)
        labels = [self._label_of(index, record) for index, record in enumerate(parsed)]
        return np.array(labels, np.int32)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        data, parsed = parse(self._files.read(index), lambda: self.name_of(index))
        return Record(data, self._label_of(index, parsed))

    def name_of(self, index: int) -> str:
        return self._files.name_of(index)

    def _label_of(self, index: int, parsed: Parsed) -> int:
        label = self._classes.index_of(parsed)
        if label is None:
            count, first = len(self.class_names), self._classes.offset
            raise ValueError(
                f"Expected one of {count} classes, as a label from {first} to {first + count - 1} "
                f"or as ImageNet's id. Received: {parsed.label}, {parsed.synset!r} in "
                f"{self.name_of(index)}"
            )
        return label


def load_tfrecord(pattern: str, config: DataConfig) -> tuple[Source, Source | None]:
    """Finds the records of TFRecord files, which are `tf.train.Example`.

    Of files that `keras-resnet data prepare` wrote, classes, labels and places of records are in
    the files beside them. Others need the features `image/encoded` and `image/class/label`, as in
    TensorFlow's ImageNet. If their `image/class/synset` are ids of ImageNet's classes, the classes
    are all 1,000 of these. Otherwise every record is read once now, and the classes are the labels
    that occur, called by `image/class/text` or by their numbers; labels count from 1 unless there
    is a 0.

    Args:
        pattern: a directory, or a pattern of files with `*`, `?`, `[…]` and `**`. Files whose names
            start with `train` are the training part; those with `validation`, `val` or `test` (the
            first of these that is there) are the validation part. If nothing is called so, all are
            training.
        config: not needed: records are as they are.

    Returns:
        The training part, empty if there are only files of a validation part, and the validation
        part, None if there is none.

    Raises:
        ValueError: there are no such files, some of them are missing, damaged or of another size
            than noted beside them, or features are missing.
        OSError: a file cannot be read.
    """
    del config
    files = _divided(_found(pattern))
    _check_complete([*files.train, *files.validation])
    dataset = _dataset_of([*files.train, *files.validation])
    names = f"tfrecord:{pattern} (training)", f"tfrecord:{pattern} (validation)"
    if dataset is None:
        train, validation = _foreign(files, names)
    else:
        if Path(pattern).expanduser().is_dir():
            dataset.check_present([*files.train, *files.validation])
        train, validation = (
            _prepared(dataset, paths, name) if paths else None
            for paths, name in zip(files, names, strict=True)
        )
    if train is None:
        assert validation is not None
        return Subset(validation, np.zeros(0, np.int64), names[0]), validation
    return train, validation


def _prepared(dataset: Dataset, paths: Sequence[Path], name: str) -> TFRecordImages:
    lengths, labels = dataset.index_of(paths)
    return TFRecordImages(TFRecordFiles(_texts(paths), lengths), dataset.classes, name, labels)


def _foreign(
    files: _Files, names: Sequence[str]
) -> tuple[TFRecordImages | None, TFRecordImages | None]:
    parts = [TFRecordFiles(_texts(paths)) if paths else None for paths in files]
    for paths, part in zip(files, parts, strict=True):
        if part is not None and len(part) == 0:
            raise ValueError(f"Expected records. Received: none in {paths[0].parent}")
    classes, labels = classes_of([part for part in parts if part is not None])
    known = iter(labels)
    train, validation = (
        None if part is None else TFRecordImages(part, classes, name, next(known))
        for part, name in zip(parts, names, strict=True)
    )
    return train, validation


def _found(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        files = [
            entry
            for entry in sorted(path.iterdir())
            if entry.is_file()
            and not entry.name.startswith(".")
            and entry.suffix not in _OTHER_SUFFIXES
        ]
    elif path.is_file():
        files = [path]
    else:
        # `Path.glob` takes no absolute patterns.
        matches = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207
        files = sorted(match for match in matches if match.is_file())
    if not files:
        raise ValueError(
            "Expected a directory or pattern of TFRecord files. "
            f"Received: {pattern}, which has none"
        )
    return files


def _divided(files: Sequence[Path]) -> _Files:
    train = _starting(files, "train")
    validation = next(filter(None, (_starting(files, start) for start in VALIDATION_STARTS)), [])
    return _Files(train, validation) if train or validation else _Files(list(files), [])


def _starting(files: Iterable[Path], start: str) -> list[Path]:
    return [path for path in files if path.name.startswith(start)]


def _check_complete(files: Sequence[Path]) -> None:
    """Raises if of `…-00000-of-00010` and so on not all ten are there."""
    numbers: dict[tuple[str, str, str], dict[str, set[int]]] = defaultdict(dict)
    for path in files:
        if match := _NUMBERED.fullmatch(path.name):
            series = str(path.parent), match["before"], match["after"]
            numbers[series].setdefault(match["total"], set()).add(int(match["number"]))
    for (directory, before, after), totals in numbers.items():
        if len(totals) > 1:
            raise ValueError(
                f"Expected one series of files {before}-…{after} in {directory}. Received: series "
                f"of {' and of '.join(sorted(totals))}. Remove what is not of this data set"
            )
        ((total, present),) = totals.items()
        missing = sorted(set(range(int(total))) - present)
        if missing:
            names = [f"{before}-{number:05d}-of-{total}{after}" for number in missing[:5]]
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise ValueError(
                f"Expected all {int(total)} files of the series in {directory}. Received: "
                f"{len(present)}, without {', '.join(names)}{more}"
            )


def _dataset_of(files: Sequence[Path]) -> Dataset | None:
    """What `data prepare` wrote beside the files, if it did."""
    directories = sorted({path.parent for path in files})
    described = [directory for directory in directories if (directory / DATASET_FILE).is_file()]
    datasets = [dataset for dataset in map(read_dataset, described) if dataset is not None]
    if datasets and len(directories) > 1:
        raise ValueError(
            f"Expected files of one directory, as {described[0] / DATASET_FILE} describes those "
            f"beside it. Received: files of {len(directories)} directories"
        )
    return datasets[0] if datasets else None


def _texts(paths: Iterable[Any]) -> list[str]:
    return [str(path) for path in paths]
