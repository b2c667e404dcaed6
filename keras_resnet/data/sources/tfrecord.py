"""TFRecord files of images, of `data prepare` or with the features of TensorFlow's ImageNet."""

from __future__ import annotations

import functools
import glob
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from keras_resnet.data.shards.dataset import DATASET_FILE, PreparedDataset, read_description
from keras_resnet.data.shards.example import ClassFeatures, read_example
from keras_resnet.data.shards.random_access import TFRecordFiles
from keras_resnet.data.sources.base import Record
from keras_resnet.data.sources.splits import SPLITS, Splits, open_splits, split_of, warn_of_left_out
from keras_resnet.data.sources.tfrecord_classes import Classes, classes_of, read_class_features
from keras_resnet.support.checks import some_of
from keras_resnet.support.files import is_being_replaced

#: Suffixes of other files in directories of TFRecord files.
_OTHER_SUFFIXES = frozenset({".json", ".npy", ".sha256", ".txt", ".md", ".csv", ".pbtxt"})

_NUMBERED = re.compile(r"(?P<before>.*)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<after>.*)")


class TFRecordImages:
    """A `Source` of images in TFRecord files.

    Args:
        files: the records.
        classes: the interpretation of their labels.
        name: name in reports.
        labels: `(n,)`, int32; None if they have to be read from the records.
    """

    def __init__(
        self, files: TFRecordFiles, classes: Classes, name: str, labels: np.ndarray | None = None
    ) -> None:
        self._files, self._classes, self._labels = files, classes, labels
        self.name = name
        self.class_names, self.class_ids = classes.names, classes.ids
        self.files = files.paths

    @functools.cached_property
    def labels(self) -> np.ndarray:
        if self._labels is not None:
            return self._labels
        found = read_class_features(self._files)
        labels = [self._label_of(index, features) for index, features in enumerate(found)]
        return np.array(labels, np.int32)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        data, features = read_example(self._files, index)
        return Record(data, self._label_of(index, features))

    def name_of(self, index: int) -> str:
        return self._files.name_of(index)

    def _label_of(self, index: int, features: ClassFeatures) -> int:
        label = self._classes.index_of(features)
        if label is None:
            count, first = len(self.class_names), self._classes.offset
            raise ValueError(
                f"Expected one of {count} classes, as a label from {first} to {first + count - 1} "
                f"or as a WordNet id of ImageNet. Received: {features.label}, {features.synset!r} "
                f"in {self.name_of(index)}"
            )
        return label


def load_tfrecord(pattern: str) -> Splits:
    """Find the records of TFRecord files of `tf.train.Example`s.

    Files of `keras-resnet data prepare` come with files that describe their classes, labels and
    records. Other files need the features `image/encoded` and `image/class/label`, as in
    TensorFlow's ImageNet. If their `image/class/synset` are WordNet ids of ImageNet's classes, the
    classes are ImageNet's 1,000. Otherwise all records are read once, and the classes are the range
    of labels from 1 (or 0, if it occurs) to the largest one, named by `image/class/text`, by
    `image/class/synset` or by number.

    Args:
        pattern: a directory, or a pattern of files with `*`, `?`, `[…]` and `**`. A file belongs to
            the split that is named (`split_of`) by a word of its name, or, for files in several
            folders, by a word of the name of its folder. If no file names a split, all are for
            training; otherwise those that name none are left out, with a warning.

    Raises:
        ValueError: there are no such files; a file is missing, damaged or of another size than
            described; or a feature is missing.
        OSError: a file cannot be read.
    """
    splits = _by_split(_find_files(pattern), pattern)
    all_paths = [path for paths in splits.values() for path in paths]
    _check_complete(all_paths)
    dataset = _dataset_of(all_paths)
    if dataset is not None and Path(pattern).is_dir():
        dataset.check_present(all_paths)
    openers = _undescribed(splits) if dataset is None else _prepared(dataset, splits)

    def source(split: str) -> TFRecordImages:
        files, classes, labels = openers[split]()
        return TFRecordImages(files, classes, f"tfrecord:{pattern} ({split})", labels)

    return open_splits({split: partial(source, split) for split in splits})


#: Split -> function that returns its records, the classes, and the labels if they are known.
_Openers = dict[str, Callable[[], tuple[TFRecordFiles, Classes, np.ndarray | None]]]


def _prepared(dataset: PreparedDataset, splits: Mapping[str, Sequence[Path]]) -> _Openers:
    """Return the openers of the splits of a data set that `data prepare` wrote."""
    classes = Classes(dataset.class_names, dataset.class_ids, dataset.label_offset)

    def opened(paths: Sequence[Path]) -> tuple[TFRecordFiles, Classes, np.ndarray | None]:
        lengths, labels = dataset.index_of(paths)
        return TFRecordFiles(paths, lengths), classes, labels

    return {split: partial(opened, paths) for split, paths in splits.items()}


def _undescribed(splits: Mapping[str, Sequence[Path]]) -> _Openers:
    """Return the openers of the splits of a data set without a description."""

    def records(paths: Sequence[Path]) -> TFRecordFiles:
        files = TFRecordFiles(paths)
        if len(files) == 0:
            raise ValueError(f"Expected records. Received: none in {paths[0].parent}")
        return files

    # The classes do not depend on the test split, unless it is the only one.
    read = {split: records(paths) for split, paths in splits.items() if split != "test"}
    read = read or {"test": records(splits["test"])}
    classes, labels = classes_of(list(read.values()))
    openers: _Openers = {}
    for split, known in zip(read, labels, strict=True):
        openers[split] = partial(lambda *found: found, read[split], classes, known)
    if "test" in splits:
        openers.setdefault("test", lambda: (records(splits["test"]), classes, None))
    return openers


def _find_files(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.is_dir():
        files = [
            entry
            for entry in sorted(path.iterdir())
            if entry.is_file()
            and not entry.name.startswith(".")
            and entry.suffix not in _OTHER_SUFFIXES
        ]
    else:
        # `Path.glob` does not support absolute patterns.
        matches = [path] if path.is_file() else glob.glob(pattern, recursive=True)  # noqa: PTH207
        files = sorted(match for match in map(Path, matches) if match.is_file())
    if not files:
        raise ValueError(
            "Expected a directory or pattern of TFRecord files. "
            f"Received: {pattern}, which matches none"
        )
    return files


def _by_split(files: list[Path], pattern: str) -> dict[str, list[Path]]:
    """Return split -> files, in the order of `SPLITS`."""
    several = len({path.parent for path in files}) > 1
    named = [
        (_split_in(path.name) or (_split_in(path.parent.name) if several else None), path)
        for path in files
    ]
    splits = {name: [path for split, path in named if split == name] for name in SPLITS}
    if not any(splits.values()):
        return {"train": files}
    warn_of_left_out((path.name for split, path in named if split is None), f"tfrecord:{pattern}")
    return {split: paths for split, paths in splits.items() if paths}


def _split_in(name: str) -> str | None:
    """Return the split that the first such word of a name stands for; None if no word does."""
    return next(filter(None, map(split_of, re.split(r"[\W_]+", name))), None)


def _check_complete(files: Sequence[Path]) -> None:
    """Raise ValueError if a series `…-00000-of-00010` is incomplete or is being replaced."""
    for folder in filter(is_being_replaced, {path.parent for path in files}):
        raise ValueError(
            f"Expected a complete data set. Received: {folder}, whose files are being replaced, or "
            "whose replacement was interrupted. Run `keras-resnet data prepare` again"
        )
    numbers: dict[tuple[str, str, str], dict[str, set[int]]] = defaultdict(dict)
    for path in files:
        if match := _NUMBERED.fullmatch(path.name):
            series = str(path.parent), match["before"], match["after"]
            numbers[series].setdefault(match["total"], set()).add(int(match["number"]))
    for (directory, before, after), totals in numbers.items():
        if len(totals) > 1:
            raise ValueError(
                f"Expected one series of files {before}-…{after} in {directory}. Received: series "
                f"of {' and of '.join(sorted(totals))}. Remove the files of other data sets"
            )
        ((total, present),) = totals.items()
        missing = sorted(set(range(int(total))) - present)
        if missing:
            names = [f"{before}-{number:05d}-of-{total}{after}" for number in missing]
            raise ValueError(
                f"Expected all {int(total)} files of the series in {directory}. Received: "
                f"{len(present)}, without {some_of(names)}. Copy the missing ones"
            )


def _dataset_of(files: Sequence[Path]) -> PreparedDataset | None:
    """Return the description that `data prepare` wrote with the files; None if there is none."""
    directories = sorted({path.parent for path in files})
    described = [directory for directory in directories if (directory / DATASET_FILE).is_file()]
    datasets = [dataset for dataset in map(read_description, described) if dataset is not None]
    if datasets and len(directories) > 1:
        raise ValueError(
            f"Expected files in the directory of {described[0] / DATASET_FILE} only. Received: "
            f"files in {len(directories)} directories"
        )
    return datasets[0] if datasets else None
