"""Opening of sources by the text that names them."""

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
from keras_resnet.data.sources.parts import PARTS, Parts
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
        usage: how it is written; what is optional is in brackets. `PATH`, `FILE` and `GLOB` are
            something that there is on the disk.
        load: from what stands behind the colon and the configuration to the parts.
    """

    usage: str
    load: Callable[[str, DataConfig], Parts]


def _at(load: Callable[[str], Parts]) -> Callable[[str, DataConfig], Parts]:
    """Lets `~` in a path stand for the home directory."""
    return lambda path, _: load(str(Path(path).expanduser()))


#: What stands before the colon -> how it is opened; each function says what it takes.
SOURCE_KINDS = {
    "digits": SourceKind("digits", lambda _, config: Parts(*load_digits(config.size))),
    "folder": SourceKind("folder:PATH", _at(load_folder)),
    "csv": SourceKind("csv:FILE", _at(load_csv)),
    "cifar": SourceKind("cifar:PATH", _at(load_cifar)),
    "tfds": SourceKind("tfds:NAME[/CONFIG]", lambda name, _: load_tfds(name)),
    "tfrecord": SourceKind("tfrecord:GLOB", _at(load_tfrecord)),
    "synthetic": SourceKind(
        "synthetic[:COUNT[xHEIGHTxWIDTH]]",
        lambda text, config: Parts(*load_synthetic(text, config.size)),
    ),
}


def load_data(
    config: DataConfig | str, say: Say = unsaid, least_classes: int = 2
) -> tuple[Source, Source]:
    """Opens the source of a configuration: its training part and its validation part.

    Nothing is decoded, and files are read when records are asked for. Of a source without a
    validation part, `config.validation_fraction` of every class is put aside for it; a test part is
    left alone, for `load_part`.

    Args:
        config: what to open; a string stands for `DataConfig(that)`. Its source is written as one
            of `keras_resnet.data.sources.load.SOURCE_KINDS`, such as `folder:PATH`.
        say: is told if the training part is divided, and how little few validation images tell.
        least_classes: how many classes there have to be: two to train, one to evaluate.

    Raises:
        ValueError: there is no such source, it is not as it should be, has no training part, or a
            class is too small to be divided.
        OSError: it cannot be read.
    """
    if isinstance(config, str):
        config = DataConfig(config)
    return _for_training(load_parts(config, least_classes), config, say)


def _for_training(parts: Parts, config: DataConfig, say: Say = unsaid) -> tuple[Source, Source]:
    train, validation, test = parts
    if not len(train):
        others = [name for name, part in zip(PARTS, parts, strict=True) if part is not None][1:]
        raise ValueError(
            f"Expected images to train on. Received: {config.source}, which has a "
            f"{' and a '.join(others)} part alone"
        )
    if validation is not None:
        if len(validation) < FEW_IMAGES:
            say(f"{_how_little(validation)}; more validation images would tell more.")
        return train, validation
    divided = stratified_split(train, config.validation_fraction, config.split_seed)
    say(
        f"{train.name} has no validation part: {len(divided[1]):,} of its {len(train):,} images, "
        f"{config.validation_fraction:.0%} of every class, are put aside for validation."
        + (" Its test part is not read." if test else "")
    )
    if len(divided[1]) < FEW_IMAGES:
        say(f"{_how_little(divided[1])}; a larger `validation_fraction` would tell more.")
    return divided


def _how_little(validation: Source) -> str:
    return (
        f"An accuracy on {len(validation):,} validation image{'s' * (len(validation) != 1)} is "
        f"known to about ±{100 * margin_of(len(validation)):.0f} points only"
    )


def load_part(config: DataConfig | str, part: str, least_classes: int = 2) -> Source:
    """Opens one part of a source: `"train"`, `"validation"`, both as of `load_data`, or `"test"`.

    `least_classes` is as of `load_data`.

    Raises:
        ValueError: the source has no such part, or as for `load_data`.
        OSError: it cannot be read.
    """
    check_choice("part", part, PARTS)
    if isinstance(config, str):
        config = DataConfig(config)
    found = load_parts(config, least_classes)
    if part == "validation" and found.validation is not None:
        return found.validation
    if part != "test":
        return _for_training(found, config)[PARTS.index(part)]
    if found.test is None:
        raise ValueError(
            f"Expected a source with a test part. Received: {config.source}, without one"
        )
    return found.test()


def load_every_part(config: DataConfig | str, least_classes: int = 2) -> dict[str, Source]:
    """Opens all parts of a source that have images, undivided, by the names in `PARTS`.

    A test part that is no set of labelled images, as of many a competition, is left out with a
    warning. Arguments and errors are those of `load_data`.
    """
    train, validation, test = load_parts(config, least_classes)
    found: dict[str, Source | None] = {"train": train, "validation": validation}
    if test is not None:
        try:
            found["test"] = test()
        except ValueError as error:
            warnings.warn(f"The test part is left out: {error}", stacklevel=2)
    return {part: source for part, source in found.items() if source is not None and len(source)}


def _kind_of(source: str) -> tuple[SourceKind, str]:
    """Return the kind of a source, and the text behind its colon. A path alone tells its kind."""
    name, colon, argument = source.partition(":")
    kind = SOURCE_KINDS.get(name)
    if kind is None:
        path = Path(source).expanduser()
        if source and path.is_dir():
            return SOURCE_KINDS["tfrecord" if (path / DATASET_FILE).is_file() else "folder"], source
        if path.suffix == ".csv" and path.is_file():
            return SOURCE_KINDS["csv"], source
        usages = {known.usage.split("[")[0]: known.usage for known in SOURCE_KINDS.values()}
        hint = did_you_mean(name, usages, f"There are {', '.join(usages.values())}")
        raise ValueError(f"Expected a source of images. Received: {source!r}{hint}")
    takes, needs = ":" in kind.usage, kind.usage.startswith(f"{name}:")
    if (argument and not takes) or (not argument and (needs or colon)):
        raise ValueError(f"Expected a source {kind.usage}. Received: {source!r}")
    return kind, argument


def check_source(source: str) -> None:
    """Refuses a source that cannot be opened, as far as that is seen without opening it.

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


def load_parts(config: DataConfig | str, least_classes: int = 2) -> Parts:
    """Opens a source as it is divided, be it not at all.

    Arguments and errors are those of `load_data`.
    """
    if isinstance(config, str):
        config = DataConfig(config)
    kind, argument = _kind_of(config.source)
    parts = kind.load(argument, config)
    names = parts.train.class_names
    if len(names) < least_classes:
        raise ValueError(
            f"Expected images of at least {least_classes} classes. Received: {config.source}, with "
            f"{', '.join(names) or 'none'}"
        )
    for alike in alike_names(names):
        warnings.warn(
            f"{config.source} has {len(alike)} classes whose names differ only in case, spaces or "
            f"Unicode form: {', '.join(map(repr, alike))}. Are they one?",
            stacklevel=2,
        )
    return parts
