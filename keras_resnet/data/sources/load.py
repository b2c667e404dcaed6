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

Parts = tuple[Source, Source | None]


class _Scheme(NamedTuple):
    """A kind of source.

    Attributes:
        usage: how it is written.
        argument: whether something has to stand behind a colon; None if it may.
        load: from what stands behind the colon and the configuration to the parts; the second one
            is None if there is no validation part.
    """

    usage: str
    argument: bool | None
    load: Callable[[str, DataConfig], Parts]


def _tfrecord(pattern: str, config: DataConfig) -> Parts:
    from keras_resnet.data.sources.tfrecord import load_tfrecord

    return load_tfrecord(_expanded(pattern), config)


def _expanded(path: str) -> str:
    return str(Path(path).expanduser())


_SCHEMES = {
    "digits": _Scheme("digits", False, lambda _, config: load_digits(config.size)),
    "folder": _Scheme("folder:PATH", True, lambda path, _: load_folder(_expanded(path))),
    "csv": _Scheme("csv:FILE", True, lambda path, _: load_csv(_expanded(path))),
    "cifar": _Scheme("cifar:PATH", True, lambda path, _: load_cifar(_expanded(path))),
    "tfds": _Scheme("tfds:NAME[/CONFIG]", True, lambda name, _: load_tfds(name)),
    "tfrecord": _Scheme("tfrecord:GLOB", True, _tfrecord),
    "synthetic": _Scheme(
        "synthetic[:COUNT[xHEIGHTxWIDTH]]",
        None,
        lambda argument, config: load_synthetic(argument, config.size),
    ),
}


def load_data(config: DataConfig | str) -> tuple[Source, Source]:
    """Opens the source of a configuration: its training part and its validation part.

    Nothing is decoded, and files are read when records are asked for. Of a source without a
    validation part, `config.validation_fraction` of every class is put aside.

    Args:
        config: what to open; a string stands for `DataConfig(that)`. Its source is one of

            - `digits`: scikit-learn's handwritten digits, enlarged to `config.size`;
            - `folder:PATH`: a folder of images per class, see `load_folder`;
            - `csv:FILE`: a list of images and labels, see `load_csv`;
            - `cifar:PATH`: CIFAR-10 or CIFAR-100 as published, see `load_cifar`;
            - `tfds:NAME[/CONFIG]`: a data set of tensorflow_datasets, see `load_tfds`;
            - `tfrecord:GLOB`: TFRecord files, see `load_tfrecord`;
            - `synthetic[:COUNT[xHEIGHTxWIDTH]]`: made-up pictures, see `load_synthetic`.

            `~` stands for the home directory.

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
    scheme = _SCHEMES.get(name)
    if scheme is None:
        usages = ", ".join(known.usage for known in _SCHEMES.values())
        raise ValueError(f"Expected a source: one of {usages}. Received: {config.source!r}")
    if (colon and not argument) or scheme.argument not in (None, bool(colon)):
        raise ValueError(f"Expected a source {scheme.usage}. Received: {config.source!r}")
    train, validation = scheme.load(argument, config)
    if len(train.class_names) < 2:
        raise ValueError(
            f"Expected images of at least 2 classes. Received: {config.source}, with "
            f"{', '.join(train.class_names) or 'none'}"
        )
    return train, validation
