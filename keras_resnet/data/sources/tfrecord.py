"""TFRecord files of images: those of `data prepare`, and others with ImageNet's features."""

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
from keras_resnet.data.sources.parts import PARTS, Parts, open_parts, part_of, warn_of_left_out
from keras_resnet.data.sources.tfrecord_classes import Classes, classes_of, read_class_features
from keras_resnet.support.checks import some_of
from keras_resnet.support.files import is_being_replaced

#: Suffixes of what lies beside TFRecord files in the same directory.
_OTHER_SUFFIXES = frozenset({".json", ".npy", ".sha256", ".txt", ".md", ".csv", ".pbtxt"})

_NUMBERED = re.compile(r"(?P<before>.*)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<after>.*)")


class TFRecordImages:
    """Images in TFRecord files, read one by one in any order; a `Source`."""

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
        self.files = files.paths

    @functools.cached_property
    def labels(self) -> np.ndarray:
        # Unless they are known, all records are read.
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
                f"or as ImageNet's id. Received: {features.label}, {features.synset!r} in "
                f"{self.name_of(index)}"
            )
        return label


def load_tfrecord(pattern: str) -> Parts:
    """Finds the records of TFRecord files, which are `tf.train.Example`.

    Of files that `keras-resnet data prepare` wrote, classes, labels and places of records are in
    the files beside them. Others need the features `image/encoded` and `image/class/label`, as in
    TensorFlow's ImageNet. If their `image/class/synset` are ids of ImageNet's classes, the classes
    are all 1,000 of these. Otherwise every record is read once now, and the classes are the labels
    that occur, called by `image/class/text` or by their numbers; labels count from 1 unless there
    is a 0.

    Args:
        pattern: a directory, or a pattern of files with `*`, `?`, `[…]` and `**`. The first usual
            name of a part (`part_of`) among the words of its name says of which part a file is; or,
            of files in several folders, of its folder's name. If no file is of a part, all are
            training; otherwise those of no part are left out, with a warning.

    Raises:
        ValueError: there are no such files, some of them are missing, damaged or of another size
            than noted beside them, or features are missing.
        OSError: a file cannot be read.
    """
    parts = _divided(_found(pattern), pattern)
    every = [path for paths in parts.values() for path in paths]
    _check_complete(every)
    dataset = _dataset_of(every)
    if dataset is not None and Path(pattern).is_dir():
        dataset.check_present(every)
    opened = _of_others(parts) if dataset is None else _prepared(dataset, parts)

    def source(part: str) -> TFRecordImages:
        files, classes, labels = opened[part]()
        return TFRecordImages(files, classes, f"tfrecord:{pattern} ({part})", labels)

    return open_parts({part: partial(source, part) for part in parts})


#: Of each part, what finds its records, the classes of all parts and, if they are known, its
#: labels.
_Opened = dict[str, Callable[[], tuple[TFRecordFiles, Classes, np.ndarray | None]]]


def _prepared(dataset: PreparedDataset, parts: Mapping[str, Sequence[Path]]) -> _Opened:
    classes = Classes(dataset.class_names, dataset.class_ids, dataset.label_offset)

    def opened(paths: Sequence[Path]) -> tuple[TFRecordFiles, Classes, np.ndarray | None]:
        lengths, labels = dataset.index_of(paths)
        return TFRecordFiles(paths, lengths), classes, labels

    return {part: partial(opened, paths) for part, paths in parts.items()}


def _of_others(parts: Mapping[str, Sequence[Path]]) -> _Opened:
    def records(paths: Sequence[Path]) -> TFRecordFiles:
        files = TFRecordFiles(paths)
        if len(files) == 0:
            raise ValueError(f"Expected records. Received: none in {paths[0].parent}")
        return files

    # The test part has no say in what classes there are.
    read = {part: records(paths) for part, paths in parts.items() if part != "test"}
    read = read or {"test": records(parts["test"])}
    classes, labels = classes_of(list(read.values()))
    opened: _Opened = {}
    for part, known in zip(read, labels, strict=True):
        opened[part] = partial(lambda *found: found, read[part], classes, known)
    if "test" in parts:
        opened.setdefault("test", lambda: (records(parts["test"]), classes, None))
    return opened


def _found(pattern: str) -> list[Path]:
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
        # `Path.glob` takes no absolute patterns.
        matches = [path] if path.is_file() else glob.glob(pattern, recursive=True)  # noqa: PTH207
        files = sorted(match for match in map(Path, matches) if match.is_file())
    if not files:
        raise ValueError(
            "Expected a directory or pattern of TFRecord files. "
            f"Received: {pattern}, which has none"
        )
    return files


def _divided(files: list[Path], pattern: str) -> dict[str, list[Path]]:
    """The files of each part that there is, in the order of `PARTS`."""
    several = len({path.parent for path in files}) > 1
    named = [
        (_part_of(path.name) or (_part_of(path.parent.name) if several else None), path)
        for path in files
    ]
    parts = {part: [path for own, path in named if own == part] for part in PARTS}
    if not any(parts.values()):
        return {"train": files}
    warn_of_left_out((path.name for own, path in named if own is None), f"tfrecord:{pattern}")
    return {part: paths for part, paths in parts.items() if paths}


def _part_of(name: str) -> str | None:
    return next(filter(None, map(part_of, re.split(r"[\W_]+", name))), None)


def _check_complete(files: Sequence[Path]) -> None:
    """Raises if of `…-00000-of-00010` and so on not all ten are there, or if they are replaced."""
    for folder in filter(is_being_replaced, {path.parent for path in files}):
        raise ValueError(
            f"Expected a whole data set. Received: {folder}, where another one is taking its "
            "place, or a process was killed meanwhile. Run `keras-resnet data prepare` again"
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
                f"of {' and of '.join(sorted(totals))}. Remove what is not of this data set"
            )
        ((total, present),) = totals.items()
        missing = sorted(set(range(int(total))) - present)
        if missing:
            names = [f"{before}-{number:05d}-of-{total}{after}" for number in missing]
            raise ValueError(
                f"Expected all {int(total)} files of the series in {directory}. Received: "
                f"{len(present)}, without {some_of(names)}"
            )


def _dataset_of(files: Sequence[Path]) -> PreparedDataset | None:
    """Return the description that `data prepare` wrote beside the files, if there is one."""
    directories = sorted({path.parent for path in files})
    described = [directory for directory in directories if (directory / DATASET_FILE).is_file()]
    datasets = [dataset for dataset in map(read_description, described) if dataset is not None]
    if datasets and len(directories) > 1:
        raise ValueError(
            f"Expected files of one directory, as {described[0] / DATASET_FILE} describes those "
            f"beside it. Received: files of {len(directories)} directories"
        )
    return datasets[0] if datasets else None
