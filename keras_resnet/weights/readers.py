"""Files of weights of every format, read into arrays by key. Nothing in a file is ever run."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import safetensors

from keras_resnet.weights.torch_pickle import is_torch_file, read_torch

_TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".th", ".tar", ".ckpt")
_HDF5_SUFFIXES = (".h5", ".hdf5")
SUFFIXES = (".keras", *_HDF5_SUFFIXES, ".safetensors", ".npz", *_TORCH_SUFFIXES)

_SAFETENSORS_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}

#: Where training scripts put the state dict, the averaged one first, as timm takes it.
_WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
)
#: What wrapping a module puts in front of every key.
_WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")

#: What Keras has called the weights of a layer over the years, in HDF5 files.
_KERAS_ROLES = {
    "W": "kernel",
    "b": "bias",
    "running_mean": "moving_mean",
    # Keras 1 said deviation, and meant the variance.
    "running_std": "moving_variance",
    "running_variance": "moving_variance",
}


@dataclass
class Arrays:
    """The contents of a file.

    Attributes:
        values: array by key; a layer's name, a dot, and which of its weights it is.
        metadata: what else the file says, in words.
        notes: what was decided on the way, for the report.
    """

    values: dict[str, np.ndarray]
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_arrays(path: str | os.PathLike[str]) -> Arrays:
    """Reads a `.safetensors`, torch, `.h5`, `.keras` or `.npz` file.

    Raises:
        ValueError: there is no such file, or it is damaged, or holds no weights.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        raise ValueError(
            f"Expected the path of an existing file of weights ({', '.join(SUFFIXES)}). "
            f"Received: {path}"
        )
    try:
        arrays = _read(path)
        if not arrays.values:
            raise ValueError("no weights in it")
    except MemoryError as error:
        raise ValueError(_unreadable(path, "more data than there is memory for")) from error
    except Exception as error:
        # Each library, and each kind of damage, has errors of its own.
        reason = str(error) if isinstance(error, ValueError) else f"damaged: {error!r}"
        raise ValueError(_unreadable(path, reason)) from error
    return arrays


def _unreadable(path: Path, reason: str) -> str:
    return f"Expected a file of weights that can be read. Received: {path}: {reason}"


def _read(path: Path) -> Arrays:
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _read_safetensors(path)
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return Arrays({_keras_key(key): archive[key] for key in archive.files})
    if suffix == ".keras":
        with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as file:
            return _read_hdf5(file)
    if suffix in _HDF5_SUFFIXES:
        return _read_hdf5(path)
    if not is_torch_file(path):
        raise ValueError("neither a zip archive nor a pickle, as torch writes them")
    return _state_dict(read_torch(path))


def _read_safetensors(path: Path) -> Arrays:
    values = {}
    content = path.read_bytes()
    for key, tensor in safetensors.deserialize(content):
        kind, data = tensor["dtype"], tensor["data"]
        if kind == "BF16":
            # Numpy lacks it; it is the upper half of float32.
            array = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
        elif kind in _SAFETENSORS_TYPES:
            array = np.frombuffer(data, _SAFETENSORS_TYPES[kind])
        else:
            raise ValueError(f"{key} is of type {kind}, which weights of a ResNet do not have")
        values[key] = array.reshape(tensor["shape"])
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    arrays = _state_dict(values)
    return Arrays(arrays.values, header.get("__metadata__", {}), arrays.notes)


def _read_hdf5(file: Any) -> Arrays:
    with h5py.File(file, "r") as archive:
        return Arrays(dict(_keras3_weights(archive)) or dict(_legacy_weights(archive)))


def _keras3_weights(archive: h5py.File) -> Iterator[tuple[str, np.ndarray]]:
    """What `model.save_weights("….weights.h5")` writes: groups `vars` that carry layers' names."""
    groups: list[h5py.Group] = []

    def collect(path: str, item: Any) -> None:
        if path.startswith("layers/") and path.endswith("/vars"):  # Not those of the optimizer.
            groups.append(item)

    archive.visititems(collect)
    for group in groups:
        name = group.attrs.get("name")
        if name is None or not len(group):
            continue
        ranks = [group[str(index)].ndim for index in range(len(group))]
        roles = ("kernel", "bias")
        if ranks[0] == 1:
            roles = ("gamma", "beta", "moving_mean", "moving_variance")  # type: ignore[assignment]
        if len(ranks) > len(roles):
            continue  # No layer of a ResNet.
        for index in range(len(ranks)):
            yield f"{_text(name)}.{roles[index]}", group[str(index)][()]


def _legacy_weights(archive: h5py.File) -> Iterator[tuple[str, np.ndarray]]:
    """What Keras wrote before: groups by layer, each with the list of its weights' names."""
    root = archive.get("model_weights", archive)
    for layer in root.attrs.get("layer_names", ()):
        group = root[_text(layer)]
        for weight in group.attrs.get("weight_names", ()):
            name = _text(weight)
            parts = name.split("/")
            # Inside a nested model, the name of the layer comes before that of the weight.
            owner = parts[-2] if len(parts) > 1 else _text(layer)
            yield _keras_key(f"{owner}/{parts[-1]}"), group[name][()]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _keras_key(key: str) -> str:
    """`res2a_branch2a/res2a_branch2a_W_1:0` -> `res2a_branch2a.kernel`."""
    layer, _, weight = re.sub(r":\d+$", "", key).replace("/", ".").rpartition(".")
    weight = weight.removeprefix(f"{layer.rpartition('.')[2]}_")
    weight = re.sub(r"_\d+$", "", weight)
    return f"{layer}.{_KERAS_ROLES.get(weight, weight)}"


def _state_dict(loaded: Any) -> Arrays:
    """The arrays of a torch state dict, out of whatever it is wrapped in."""
    notes = []
    for _ in range(3):
        if not isinstance(loaded, dict):
            raise ValueError(f"a {type(loaded).__name__} instead of a state dict")
        wrapper = next((key for key in _WRAPPERS if isinstance(loaded.get(key), dict)), None)
        if wrapper is None:
            break
        notes.append(f"weights taken from {wrapper!r} in the file")
        loaded = loaded[wrapper]
    values = {
        key: value
        for key, value in loaded.items()
        if isinstance(key, str) and isinstance(value, np.ndarray)
    }
    for prefix in (prefix for _ in range(3) for prefix in _WRAPPER_PREFIXES):
        if values and all(key.startswith(prefix) for key in values):
            values = {key.removeprefix(prefix): value for key, value in values.items()}
    if any(key.startswith("backbone.") for key in values):
        # mmpretrain keeps backbone and head apart.
        values = {re.sub(r"^(backbone\.|head\.(?=fc\.))", "", key): v for key, v in values.items()}
    return Arrays(values, notes=notes)
