"""Opening of the sources that a text such as `folder:PATH` names."""

from __future__ import annotations

import glob
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from keras_resnet.data.config import DataConfig
from keras_resnet.data.shards.dataset import DATASET_FILE
from keras_resnet.data.sources.base import Source, stratified_split
from keras_resnet.data.sources.cifar import load_cifar
from keras_resnet.data.sources.csv_file import load_csv
from keras_resnet.data.sources.folder import load_folder
from keras_resnet.data.sources.memory import load_digits
from keras_resnet.data.sources.splits import SPLITS, Splits
from keras_resnet.data.sources.synthetic import load_synthetic
from keras_resnet.data.sources.tfds import load_tfds
from keras_resnet.data.sources.tfrecord import load_tfrecord
from keras_resnet.images.labels import alike_names
from keras_resnet.support.checks import check_choice
from keras_resnet.support.intervals import FEW_IMAGES, margin_of
from keras_resnet.support.progress import Say, unsaid
from keras_resnet.support.suggest import did_you_mean, did_you_mean_beside


class SourceKind(NamedTuple):
    """A kind of source.

    Attributes:
        usage: the text that names such a source, with optional parts in brackets. `PATH`, `FILE`
            and `GLOB` stand for existing files or directories.
        load: function of the text after the colon and the configuration that opens the splits.
    """

    usage: str
    load: Callable[[str, DataConfig], Splits]


def _at(load: Callable[[str], Splits]) -> Callable[[str, DataConfig], Splits]:
    """Return a loader that replaces `~` at the start of a path by the home directory."""
    return lambda path, _: load(str(Path(path).expanduser()))


#: Text before the colon -> kind of source; see the docstrings of the functions.
SOURCE_KINDS = {
    "digits": SourceKind("digits", lambda _, config: Splits(*load_digits(config.size))),
    "folder": SourceKind("folder:PATH", _at(load_folder)),
    "csv": SourceKind("csv:FILE", _at(load_csv)),
    "cifar": SourceKind("cifar:PATH", _at(load_cifar)),
    "tfds": SourceKind("tfds:NAME[/CONFIG]", lambda name, _: load_tfds(name)),
    "tfrecord": SourceKind("tfrecord:GLOB", _at(load_tfrecord)),
    "synthetic": SourceKind(
        "synthetic[:COUNT[xHEIGHTxWIDTH]]",
        lambda text, config: Splits(*load_synthetic(text, config.size)),
    ),
}


def load_data(
    config: DataConfig | str, say: Say = unsaid, least_classes: int = 2
) -> tuple[Source, Source]:
    """Open the training split and the validation split of a source.

    Images are not decoded, and files of images are read only when records are requested. If the
    source has no validation split, `config.validation_fraction` of the training images of every
    class become one. A test split is not read; see `load_part`.

    Args:
        config: the configuration, or its `source` alone: `"digits"`, `"folder:PATH"`, `"csv:FILE"`,
            `"cifar:PATH"`, `"tfds:NAME"`, `"tfrecord:GLOB"`, `"synthetic"`, or the path of a
            directory or CSV file.
        say: called with a sentence if a validation split is divided off, and if it is so small that
            accuracies on it are imprecise.
        least_classes: smallest number of classes: two for training, one for evaluation.

    Returns:
        The training and the validation split.

    Raises:
        ValueError: there is no such source, its data are invalid, it has no training split, or a
            class has too few images to divide.
        OSError: the source cannot be read.

    Examples:

    ```python
    train, validation = load_data(DataConfig("folder:flowers", validation_fraction=0.2))
    ```
    """
    if isinstance(config, str):
        config = DataConfig(config)
    return _for_training(load_splits(config, least_classes), config, say)


def _for_training(splits: Splits, config: DataConfig, say: Say = unsaid) -> tuple[Source, Source]:
    train, validation, test = splits
    if not len(train):
        others = [name for name, split in zip(SPLITS, splits, strict=True) if split is not None][1:]
        raise ValueError(
            f"Expected a source with a training split. Received: {config.source}, which has only a "
            f"{' and a '.join(others)} split"
        )
    if validation is not None:
        if len(validation) < FEW_IMAGES:
            say(f"{_precision(validation)}; more validation images make it more precise.")
        return train, validation
    divided = stratified_split(train, config.validation_fraction, config.split_seed)
    say(
        f"{train.name} has no validation split: {len(divided[1]):,} of its {len(train):,} images, "
        f"{config.validation_fraction:.0%} of every class, are set aside for validation."
        + (" Its test split is not read." if test else "")
    )
    if len(divided[1]) < FEW_IMAGES:
        say(f"{_precision(divided[1])}; a larger `validation_fraction` makes it more precise.")
    return divided


def _precision(validation: Source) -> str:
    return (
        f"An accuracy on {len(validation):,} validation image{'s' * (len(validation) != 1)} is "
        f"precise to about ±{100 * margin_of(len(validation)):.0f} points only"
    )


def load_part(config: DataConfig | str, part: str, least_classes: int = 2) -> Source:
    """Open one split of a source.

    Args:
        config: as for `load_data`.
        part: `"train"` or `"validation"`, as `load_data` returns them, or `"test"`.
        least_classes: as for `load_data`.

    Raises:
        ValueError: the source has no such split, or as for `load_data`.
        OSError: the source cannot be read.

    Examples:

    ```python
    test = load_part("cifar:cifar-10-python.tar.gz", "test")
    ```
    """
    check_choice("part", part, SPLITS)
    if isinstance(config, str):
        config = DataConfig(config)
    found = load_splits(config, least_classes)
    if part == "validation" and found.validation is not None:
        return found.validation
    if part != "test":
        return _for_training(found, config)[SPLITS.index(part)]
    if found.test is None:
        raise ValueError(
            f"Expected a source with a test split. Received: {config.source}, which has none"
        )
    return found.test()


def load_every_split(config: DataConfig | str, least_classes: int = 2) -> dict[str, Source]:
    """Open all splits of a source that have images, by name; no validation split is divided off.

    A test split without labels, as in many competitions, is left out with a warning. Arguments and
    errors are those of `load_data`.
    """
    train, validation, test = load_splits(config, least_classes)
    found: dict[str, Source | None] = {"train": train, "validation": validation}
    if test is not None:
        try:
            found["test"] = test()
        except ValueError as error:
            warnings.warn(f"The test split is left out: {error}", stacklevel=2)
    return {split: source for split, source in found.items() if source is not None and len(source)}


def _kind_of(source: str) -> tuple[SourceKind, str]:
    """Return the kind of a source, and the text after the colon, or the path without a kind."""
    name, colon, argument = source.partition(":")
    kind = SOURCE_KINDS.get(name)
    if kind is None:
        path = Path(source).expanduser()
        if source and path.is_dir():
            return SOURCE_KINDS["tfrecord" if (path / DATASET_FILE).is_file() else "folder"], source
        if path.suffix == ".csv" and path.is_file():
            return SOURCE_KINDS["csv"], source
        usages = {known.usage.split("[")[0]: known.usage for known in SOURCE_KINDS.values()}
        hint = did_you_mean(name, usages, f"Sources are {', '.join(usages.values())}")
        raise ValueError(f"Expected a source of images. Received: {source!r}{hint}")
    takes, needs = ":" in kind.usage, kind.usage.startswith(f"{name}:")
    if (argument and not takes) or (not argument and (needs or colon)):
        raise ValueError(f"Expected a source of the form {kind.usage}. Received: {source!r}")
    return kind, argument


def check_source(source: str) -> None:
    """Check that a source exists, without opening it.

    Raises:
        ValueError: there is no such kind of source, or no such file or directory.
    """
    kind, argument = _kind_of(source)
    path = str(Path(argument).expanduser())
    is_pattern = "GLOB" in kind.usage
    needs_file = is_pattern or "PATH" in kind.usage or "FILE" in kind.usage
    if needs_file and not (Path(path).exists() or (is_pattern and glob.glob(path, recursive=True))):  # noqa: PTH207
        wants_file = "FILE" in kind.usage
        hint = did_you_mean_beside(Path(path), lambda other: other.is_file() or not wants_file)
        raise ValueError(f"Expected {kind.usage} with an existing path. Received: {source!r}{hint}")


def load_splits(config: DataConfig | str, least_classes: int = 2) -> Splits:
    """Open the splits that a source has; arguments and errors are those of `load_data`."""
    if isinstance(config, str):
        config = DataConfig(config)
    kind, argument = _kind_of(config.source)
    splits = kind.load(argument, config)
    names = splits.train.class_names
    if len(names) < least_classes:
        raise ValueError(
            f"Expected images of at least {least_classes} classes. Received: {config.source}, with "
            f"{', '.join(names) or 'none'}"
        )
    for alike in alike_names(names):
        warnings.warn(
            f"{config.source} has {len(alike)} classes whose names differ only in case, spaces or "
            f"Unicode form: {', '.join(map(repr, alike))}. Merge them if they are one class",
            stacklevel=2,
        )
    return splits
