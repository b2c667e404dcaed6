"""From the text that names a source to its training and validation parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from keras_resnet.data.config import DataConfig
from keras_resnet.data.sources.base import Source, stratified_split
from keras_resnet.data.sources.cifar import load_cifar
from keras_resnet.data.sources.csv_file import load_csv
from keras_resnet.data.sources.folder import load_folder
from keras_resnet.data.sources.memory import load_digits
from keras_resnet.data.sources.synthetic import load_synthetic
from keras_resnet.data.sources.tfds import load_tfds
from keras_resnet.data.sources.tfrecord import load_tfrecord

Parts = tuple[Source, Source | None]


class SourceKind(NamedTuple):
    """A kind of source.

    Attributes:
        usage: how it is written; what is optional is in brackets.
        load: from what stands behind the colon and the configuration to the parts; the second one
            is None if there is no validation part.
    """

    usage: str
    load: Callable[[str, DataConfig], Parts]


def _at(load: Callable[[str], Parts]) -> Callable[[str, DataConfig], Parts]:
    """Lets `~` in a path stand for the home directory."""
    return lambda path, _: load(str(Path(path).expanduser()))


#: What stands before the colon -> how it is opened; each function says what it takes.
SOURCE_KINDS = {
    "digits": SourceKind("digits", lambda _, config: load_digits(config.size)),
    "folder": SourceKind("folder:PATH", _at(load_folder)),
    "csv": SourceKind("csv:FILE", _at(load_csv)),
    "cifar": SourceKind("cifar:PATH", _at(load_cifar)),
    "tfds": SourceKind("tfds:NAME[/CONFIG]", lambda name, _: load_tfds(name)),
    "tfrecord": SourceKind("tfrecord:GLOB", _at(load_tfrecord)),
    "synthetic": SourceKind(
        "synthetic[:COUNT[xHEIGHTxWIDTH]]", lambda text, config: load_synthetic(text, config.size)
    ),
}


def load_data(config: DataConfig | str) -> tuple[Source, Source]:
    """Opens the source of a configuration: its training part and its validation part.

    Nothing is decoded, and files are read when records are asked for. Of a source without a
    validation part, `config.validation_fraction` of every class is put aside.

    Args:
        config: what to open; a string stands for `DataConfig(that)`. Its source is written as one
            of `keras_resnet.data.sources.load.SOURCE_KINDS`, such as `folder:PATH`.

    Raises:
        ValueError: there is no such source, it is not as it should be, or a class is too small to
            be divided.
        OSError: it cannot be read.
    """
    if isinstance(config, str):
        config = DataConfig(config)
    train, validation = load_parts(config)
    if validation is None:
        return stratified_split(train, config.validation_fraction, config.split_seed)
    return train, validation


def load_parts(config: DataConfig | str) -> Parts:
    """Opens a source without dividing it: its second part is None if there is only one.

    Arguments and errors are those of `load_data`.
    """
    if isinstance(config, str):
        config = DataConfig(config)
    name, colon, argument = config.source.partition(":")
    kind = SOURCE_KINDS.get(name)
    if kind is None:
        usages = ", ".join(known.usage for known in SOURCE_KINDS.values())
        raise ValueError(f"Expected a source: one of {usages}. Received: {config.source!r}")
    takes, needs = ":" in kind.usage, kind.usage.startswith(f"{name}:")
    if (argument and not takes) or (not argument and (needs or colon)):
        raise ValueError(f"Expected a source {kind.usage}. Received: {config.source!r}")
    train, validation = kind.load(argument, config)
    if len(train.class_names) < 2:
        raise ValueError(
            f"Expected images of at least 2 classes. Received: {config.source}, with "
            f"{', '.join(train.class_names) or 'none'}"
        )
    return train, validation
