"""Readers of weights files of all formats, which return arrays by key.

No code in a file is run, and claimed sizes are compared with the size of the file before memory is
allocated.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from keras_resnet.models.archive import describe_damage, opened_archive
from keras_resnet.models.hdf5 import Hdf5File
from keras_resnet.support.json_text import parse_json
from keras_resnet.weights.layers import CONV_ROLES, NORM_ROLES
from keras_resnet.weights.path_or_tag import HDF5_SUFFIXES, check_file
from keras_resnet.weights.state_dicts import find_state_dict
from keras_resnet.weights.torch_pickle import read_torch

_deserialize: Any = safetensors.deserialize
_SAFETENSORS_TYPES: dict[str, Any] = {"BOOL": "?", "BF16": ml_dtypes.bfloat16} | {
    f"{kind.upper()}{8 * size}": f"<{kind}{size}" for kind in "fiu" for size in (1, 2, 4, 8)
}

#: A key and its array.
_Item = tuple[str, np.ndarray]

#: Limits: characters of a key, and bytes of a list of tensors. ResNets have fewer.
_LONGEST_KEY, _LONGEST_LIST = 256, 2**22

#: Names of weights in HDF5 files of older Keras versions -> role.
_KERAS_ROLES = {
    "W": "kernel",
    "b": "bias",
    "running_mean": "moving_mean",
    # Keras 1 called the variance `std`.
    "running_std": "moving_variance",
    "running_variance": "moving_variance",
}


@dataclass
class Arrays:
    """The content of a weights file.

    Attributes:
        values: arrays by key; a key is the name of a layer, a dot, and the role of the weights.
        metadata: text metadata of the file.
        notes: conversions, for the report.
        layers: names of all layers of a Keras model, with or without weights.
    """

    values: dict[str, np.ndarray]
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    layers: frozenset[str] = frozenset()


def read_arrays(path: str | os.PathLike[str]) -> Arrays:
    """Read a `.safetensors`, torch, `.h5`, `.keras` or `.npz` file.

    Raises:
        ValueError: the file is missing or damaged, or contains no weights.
    """
    path = Path(path)
    check_file(path)
    try:
        arrays = _read(path)
        if not arrays.values:
            raise ValueError("a file without weights")
        for key in arrays.values:
            if len(key) > _LONGEST_KEY or not key.isprintable():
                raise ValueError(f"a key that no layer has: {key}")
            if arrays.values[key].dtype == ml_dtypes.bfloat16:
                arrays.values[key] = arrays.values[key].astype(np.float32)
    except Exception as error:
        raise ValueError(
            f"Expected a readable weights file. Received: {path}: {describe_damage(error)}"
        ) from error
    return arrays


def _read(path: Path) -> Arrays:
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _read_safetensors(path)
    if suffix == ".npz":
        return _read_npz(path)
    if suffix == ".keras":
        with opened_archive(path) as archive:
            return _read_hdf5(archive.read("model.weights.h5"))
    if suffix in HDF5_SUFFIXES:
        return _read_hdf5(path.read_bytes())
    loaded = read_torch(path)
    found = find_state_dict(loaded)
    if sum(value.nbytes for value in found.values.values()) > 16 * path.stat().st_size:
        raise ValueError("the same tensors under many names")
    # The training scripts of timm and torchvision save the name of the architecture.
    architecture = loaded.get("arch") if isinstance(loaded, dict) else None
    extra = {"architecture": architecture} if isinstance(architecture, str) else {}
    return Arrays(found.values, {**extra, **found.metadata}, found.notes)


def _read_safetensors(path: Path) -> Arrays:
    values = {}
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    if length > _LONGEST_LIST:
        raise ValueError(f"a list of tensors of {length} bytes")
    header = parse_json(content[8 : 8 + length])
    for key, tensor in _deserialize(content):
        kind, data = tensor["dtype"], tensor["data"]
        if kind not in _SAFETENSORS_TYPES:
            raise ValueError(f"{key} is of type {kind}, which weights of a ResNet do not have")
        values[key] = np.frombuffer(data, _SAFETENSORS_TYPES[kind]).reshape(tensor["shape"])
    found = find_state_dict(values)
    return Arrays(
        found.values, {**found.metadata, **(header.get("__metadata__") or {})}, found.notes
    )


def _read_npz(path: Path) -> Arrays:
    with opened_archive(path) as archive:
        items = (
            (_keras_key(name.removesuffix(".npy")), _npy_array(archive.read(name)))
            for name in archive.members
        )
        return Arrays(_collected(items))


def _npy_array(content: bytes) -> np.ndarray:
    # `np.load` would first allocate the memory that the header claims.
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("an array with a longer header than arrays of numbers have")
    shape, columns_first, dtype = np.lib.format.read_array_header_1_0(file)
    data = memoryview(content)[file.tell() :]
    if dtype.kind not in "biuf" or len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array of {dtype} of the shape {shape} in {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if columns_first else "C")


def _collected(items: Iterable[_Item]) -> dict[str, np.ndarray]:
    values: dict[str, np.ndarray] = {}
    for key, array in items:
        if key in values:
            raise ValueError(f"{key} is there twice")
        values[key] = array
    return values


def _read_hdf5(content: bytes) -> Arrays:
    file = Hdf5File(content)
    groups = {
        path: file.strings(path, "name") or []
        for path in file.objects
        if path.startswith("layers/") and path.endswith("/vars")  # Without the optimizer's.
    }
    values, layers = _collected(_keras3_weights(file, groups)), [*itertools.chain(*groups.values())]
    if not values:
        root = "model_weights" if "model_weights" in file.objects else ""
        layers = list(_listed(file, root, "layer_names"))
        values = _collected(_legacy_weights(file, root, layers))
    file.check_overlaps()
    return Arrays(values, layers=frozenset(layers))


def _keras3_weights(file: Hdf5File, groups: Mapping[str, list[str]]) -> Iterator[_Item]:
    """Read the format of `model.save_weights("….weights.h5")`: a group `vars` for each layer."""
    for group, names in groups.items():
        count = len(file.members[group])
        if not names or not count:
            continue
        if len(names) > 1 or file.members[group] != set(map(str, range(count))):
            raise ValueError(f"an HDF5 file with a damaged {group}")
        norm = len(file.shape(f"{group}/0")) == 1
        roles = NORM_ROLES if norm else CONV_ROLES
        # Layers with more weights do not belong to a ResNet.
        for number, role in enumerate(roles[:count] if count <= len(roles) else ()):
            yield f"{names[0]}.{role}", file.array(f"{group}/{number}")


def _legacy_weights(file: Hdf5File, root: str, layers: list[str]) -> Iterator[_Item]:
    """Read Keras' older format: a group for each layer, with a list of the weights' names."""
    for layer in layers:
        group = f"{root}/{layer}".lstrip("/")
        for name in _listed(file, group, "weight_names"):
            parts = name.split("/")
            # Inside a nested model, the name of the layer comes before that of the weight.
            owner = parts[-2] if len(parts) > 1 else layer
            yield _keras_key(f"{owner}/{parts[-1]}"), file.array(f"{group}/{name}")


def _listed(file: Hdf5File, path: str, name: str) -> Iterator[str]:
    """Yield the strings of an attribute, which Keras may split (`layer_names0`, …)."""
    whole = file.strings(path, name)
    yield from whole or ()
    number = 0
    while whole is None and (part := file.strings(path, f"{name}{number}")) is not None:
        yield from part
        number += 1


def _keras_key(key: str) -> str:
    """Convert a name of Keras, `res2a_branch2a/res2a_branch2a_W_1:0` to `res2a_branch2a.kernel`."""
    layer, _, weight = re.sub(r":\d+$", "", key).replace("/", ".").rpartition(".")
    weight = weight.removeprefix(f"{layer.rpartition('.')[2]}_")
    weight = re.sub(r"_\d+$", "", weight)
    return f"{layer}.{_KERAS_ROLES.get(weight, weight)}"
