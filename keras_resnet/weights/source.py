"""Meanings of `weights=`, a file or a tag, and checks before anything is loaded."""

from __future__ import annotations

import os
from pathlib import Path

from keras_resnet.support.placeholders import refuse_text
from keras_resnet.support.suggest import did_you_mean_beside
from keras_resnet.weights.registry import WeightsEntry, find_weights, list_weights

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".th", ".tar", ".ckpt")
HDF5_SUFFIXES = (".h5", ".hdf5")
SUFFIXES = (".keras", *HDF5_SUFFIXES, ".safetensors", ".npz", *TORCH_SUFFIXES)

FileOrTag = str | os.PathLike[str]


def is_path(source: FileOrTag) -> bool:
    """Whether `source` means a file, and not a tag."""
    return not isinstance(source, str) or (
        Path(source).suffix.lower() in SUFFIXES or Path(source).is_file()
    )


def check_file(path: Path) -> None:
    """Raises ValueError if there is no file of weights at `path`, or a text in its place."""
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        raise ValueError(
            f"Expected the path of an existing file of weights ({', '.join(SUFFIXES)}). "
            f"Received: {path}"
            + did_you_mean_beside(path, lambda other: other.suffix.lower() in SUFFIXES)
        )
    refuse_text(path, "a file of weights that can be read")


def find_weights_of(variant: str, tag: str) -> WeightsEntry:
    """Return the row of the registry for the tag of weights of a network of `list_models()`.

    Raises:
        ValueError: there is no such tag, or it is of another network.
    """
    entry = find_weights(tag, variant)
    if entry.model != variant:
        raise ValueError(
            f"Expected weights of `{variant}`, such as {', '.join(list_weights(f'{variant}.*'))}. "
            f"Received: weights={tag!r}, which are of `{entry.model}`"
        )
    return entry
