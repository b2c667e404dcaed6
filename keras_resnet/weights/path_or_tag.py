"""Values of `weights=`: paths of weights files and tags of checkpoints, and checks of them."""

from __future__ import annotations

import os
from pathlib import Path

from keras_resnet.support.placeholders import refuse_text
from keras_resnet.support.suggest import did_you_mean_beside
from keras_resnet.weights.registry import WeightsEntry, find_weights, list_weights

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".th", ".tar", ".ckpt")
HDF5_SUFFIXES = (".h5", ".hdf5")
SUFFIXES = (".keras", *HDF5_SUFFIXES, ".safetensors", ".npz", *TORCH_SUFFIXES)

PathOrTag = str | os.PathLike[str]


def is_path(weights: PathOrTag) -> bool:
    """Return whether `weights` is the path of a file, not a tag."""
    return not isinstance(weights, str) or (
        Path(weights).suffix.lower() in SUFFIXES or Path(weights).is_file()
    )


def check_file(path: Path) -> None:
    """Raise ValueError unless `path` is a file with a known suffix that is not a text."""
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        raise ValueError(
            f"Expected the path of an existing weights file ({', '.join(SUFFIXES)}). "
            f"Received: {path}"
            + did_you_mean_beside(path, lambda other: other.suffix.lower() in SUFFIXES)
        )
    refuse_text(path, "a readable weights file")


def find_weights_of(variant: str, tag: str) -> WeightsEntry:
    """Return the registered checkpoint with a tag, for a network of `list_models()`.

    Raises:
        ValueError: there is no such tag, or the checkpoint is of another network.
    """
    entry = find_weights(tag, variant)
    if entry.model != variant:
        raise ValueError(
            f"Expected weights of `{variant}`, such as {', '.join(list_weights(f'{variant}.*'))}. "
            f"Received: weights={tag!r}, which are of `{entry.model}`"
        )
    return entry
