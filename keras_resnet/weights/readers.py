"""Files of weights of every format, read into arrays by key.

Nothing in a file is ever run, and no size that it claims is believed: what does not fit into the
file is refused before memory is reserved.
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
from keras_resnet.weights.source import HDF5_SUFFIXES, check_file
from keras_resnet.weights.state_dicts import find_state_dict
from keras_resnet.weights.torch_pickle import read_torch

_deserialize: Any = safetensors.deserialize
_SAFETENSORS_TYPES: dict[str, Any] = {"BOOL": "?", "BF16": ml_dtypes.bfloat16} | {
    f"{kind.upper()}{8 * size}": f"<{kind}{size}" for kind in "fiu" for size in (1, 2, 4, 8)
}

#: A key and its array.
_Item = tuple[str, np.ndarray]

#: More than any ResNet has: characters of a key, bytes that list tensors.
_LONGEST_KEY, _LONGEST_LIST = 256, 2**22

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
        layers: names of all layers of a Keras model, also of those without weights.
    """

    values: dict[str, np.ndarray]
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    layers: frozenset[str] = frozenset()


def read_arrays(path: str | os.PathLike[str]) -> Arrays:
    """Reads a `.safetensors`, torch, `.h5`, `.keras` or `.npz` file.

    Raises:
        ValueError: there is no such file, or it is damaged, or holds no weights.
    """
    path = Path(path)
    check_file(path)
    try:
        arrays = _read(path)
        if not arrays.values:
            raise ValueError("no weights in it")
        for key in arrays.values:
            if len(key) > _LONGEST_KEY or not key.isprintable():
                raise ValueError(f"a name that no layer has: {key}")
            if arrays.values[key].dtype == ml_dtypes.bfloat16:
                arrays.values[key] = arrays.values[key].astype(np.float32)
    except Exception as error:
        raise ValueError(
            f"Expected a file of weights that can be read. Received: {path}: {describe_damage(error)}"
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
    # timm's and torchvision's training scripts say what they trained.
    architecture = loaded.get("arch") if isinstance(loaded, dict) else None
    told = {"architecture": architecture} if isinstance(architecture, str) else {}
    return Arrays(found.values, {**told, **found.metadata}, found.notes)


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
    # `np.load` would first reserve the memory that the header claims.
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("an array with a header that is longer than those of numbers")
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
        if path.startswith("layers/") and path.endswith("/vars")  # Not those of the optimizer.
    }
    values, layers = _collected(_keras3_weights(file, groups)), [*itertools.chain(*groups.values())]
    if not values:
        root = "model_weights" if "model_weights" in file.objects else ""
        layers = list(_listed(file, root, "layer_names"))
        values = _collected(_legacy_weights(file, root, layers))
    file.check_overlaps()
    return Arrays(values, layers=frozenset(layers))


def _keras3_weights(file: Hdf5File, groups: Mapping[str, list[str]]) -> Iterator[_Item]:
    """Read what `model.save_weights("….weights.h5")` writes: groups `vars` with layers' names."""
    for group, names in groups.items():
        count = len(file.inside[group])
        if not names or not count:
            continue
        if len(names) > 1 or file.inside[group] != set(map(str, range(count))):
            raise ValueError(f"an HDF5 file with a damaged {group}")
        norm = len(file.shape(f"{group}/0")) == 1
        roles = NORM_ROLES if norm else CONV_ROLES
        # Layers with more are none of a ResNet.
        for number, role in enumerate(roles[:count] if count <= len(roles) else ()):
            yield f"{names[0]}.{role}", file.array(f"{group}/{number}")


def _legacy_weights(file: Hdf5File, root: str, layers: list[str]) -> Iterator[_Item]:
    """Read Keras' older format: groups by layer, each with the list of its weights' names."""
    for layer in layers:
        group = f"{root}/{layer}".lstrip("/")
        for name in _listed(file, group, "weight_names"):
            parts = name.split("/")
            # Inside a nested model, the name of the layer comes before that of the weight.
            owner = parts[-2] if len(parts) > 1 else layer
            yield _keras_key(f"{owner}/{parts[-1]}"), file.array(f"{group}/{name}")


def _listed(file: Hdf5File, path: str, name: str) -> Iterator[str]:
    """An attribute that Keras splits where it is long: `layer_names0`, `layer_names1`, …"""
    whole = file.strings(path, name)
    yield from whole or ()
    number = 0
    while whole is None and (part := file.strings(path, f"{name}{number}")) is not None:
        yield from part
        number += 1


def _keras_key(key: str) -> str:
    """`res2a_branch2a/res2a_branch2a_W_1:0` -> `res2a_branch2a.kernel`."""
    layer, _, weight = re.sub(r":\d+$", "", key).replace("/", ".").rpartition(".")
    weight = weight.removeprefix(f"{layer.rpartition('.')[2]}_")
    weight = re.sub(r"_\d+$", "", weight)
    return f"{layer}.{_KERAS_ROLES.get(weight, weight)}"
