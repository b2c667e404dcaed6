"""Reading of a checkpoint into arrays by layer, with this package's names and Keras' layout."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from keras_resnet.networks.names import place_of
from keras_resnet.weights.layers import CONV_ROLES, NORM_ROLES, TORCH_ROLES
from keras_resnet.weights.mapping import Layout, Naming
from keras_resnet.weights.readers import read_arrays


@dataclass
class Checkpoint:
    """Weights of a ResNet by layer, with this package's layer names and Keras' order of axes.

    Attributes:
        path: path of the file, for messages.
        naming: names of the keys in the file.
        layers: layer -> role (`kernel`, `bias`, `gamma`, …) -> array.
        keys: (layer, role) -> key in the file.
        unknown: keys that belong to no layer of a ResNet.
        metadata: text metadata of the file.
        notes: assumptions and conversions, for the report.
        other_layers: layers without weights, if the file lists them.
    """

    path: str
    naming: Naming
    layers: dict[str, dict[str, np.ndarray]]
    keys: dict[tuple[str, str], str]
    unknown: list[str] = field(default_factory=list)
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    other_layers: frozenset[str] = frozenset()

    def array(self, layer: str, role: str = "kernel") -> np.ndarray | None:
        return self.layers.get(layer, {}).get(role)


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a weights file.

    Raises:
        ValueError: the file cannot be read, its keys are not those of a ResNet, or an array has the
            wrong rank, is not of floats or is not finite.
    """
    arrays, path = read_arrays(path), os.fspath(path)
    # torch's count of updates of a BN has no counterpart in Keras.
    values = {
        key: value
        for key, value in arrays.values.items()
        if not key.endswith("num_batches_tracked")
    }
    if any(key.startswith("embedder.") for key in values):
        values = {f"resnet.{key}": value for key, value in values.items()}
    naming = _find_naming(values, path)
    heads = {} if naming.layout != "keras" else {"probs": "predictions", "fc1000": "predictions"}
    prefixes = {key: key.rpartition(".")[0] for key in values}
    prefixes = {key: heads.get(prefix, prefix) for key, prefix in prefixes.items()}
    # Block numbers above the number of arrays cannot be right, and searching for them takes long.
    names = naming.inverse(
        prefix
        for prefix in prefixes.values()
        if all(int(n) <= len(values) for n in re.findall(r"\d+", prefix.removeprefix("fc1000")))
    )
    in_keras_order = _in_keras_order(values)
    result = Checkpoint(path, naming, {}, {}, metadata=arrays.metadata, notes=list(arrays.notes))
    for key, value in values.items():
        name = names.get(prefixes[key])
        norm = name is not None and name.endswith(("_bn", "_gn"))
        suffix = key.rpartition(".")[2]
        role = TORCH_ROLES.get(suffix, (suffix, suffix))[norm]
        if name is None or role not in (NORM_ROLES if norm else CONV_ROLES):
            result.unknown.append(key)
            continue
        if (name, role) in result.keys:
            raise ValueError(
                f"Expected one {name}/{role}. Received: {result.keys[name, role]} and {key} in "
                f"{path}"
            )
        value = value if in_keras_order else _keras_order(name, value)
        result.layers.setdefault(name, {})[role] = value
        result.keys[name, role] = key
    _check(result)
    result.other_layers = arrays.layers - result.layers.keys()
    _name_group_norms(result)
    return result


def _find_naming(values: Mapping[str, np.ndarray], path: str) -> Naming:
    names = {key.rpartition(".")[0] for key in values}

    def has(pattern: str) -> bool:
        return any(re.match(pattern, name) for name in names)

    layout: Layout | None = None
    numbered: frozenset[int] = frozenset()
    if any(map(place_of, names)):
        layout = "keras"
    elif has(r"resnet\.e"):
        layout = "transformers"
    elif has(r"stages\.\d+\.blocks\."):
        layout = "timm_resnetv2"
    elif has(r"layer\d+\.\d+\."):
        layout = "akamaster" if "linear" in names or has(r"layer.*\.shortcut\.") else "torchvision"
    elif has(r"res\d[a-z]"):
        layout = "caffe"
        numbered = frozenset(
            int(found[1]) for name in names if (found := re.match(r"res(\d)b1_", name))
        )
    if layout is None:
        some = ", ".join(sorted(values)[:3])
        raise ValueError(
            "Expected weights of a ResNet with the names of torchvision, timm, transformers, Keras "
            f"or Caffe. Received: {path} with {some}, …"
        )
    projections = [
        value.ndim
        for key, value in values.items()
        if re.search(r"\.downsample\.1\.weight$", key) is not None
    ]
    deep = bool({"conv1.0", "stem.conv1"} & names)
    return Naming(layout, deep, average=4 in projections, numbered=numbered)


def _check(checkpoint: Checkpoint) -> None:
    """Raise ValueError if an array has the wrong rank, channels, dtype or values."""
    channels: dict[str, int] = {}
    for (name, role), key in checkpoint.keys.items():
        value = checkpoint.layers[name][role]
        if not np.issubdtype(value.dtype, np.floating):
            expected, received = "floats", f"{key} of {value.dtype}"
        elif not np.isfinite(value).all():
            expected, received = "finite weights", f"NaN or infinity in {key}"
        elif role == "moving_variance" and (value < 0).any():
            # This happens if statistics were swapped or shifted in a conversion.
            expected, received = "variances, which are never negative", f"negative ones in {key}"
        else:
            axes = 1 if role != "kernel" else 2 if name == "predictions" else 4
            layer = re.sub("_(conv|bn|gn)$", "", name)
            same = axes > 1 or value.size == channels.setdefault(layer, value.size)
            if value.ndim == axes and value.size and same:
                continue
            expected = f"{name}/{role} with {axes} axes and the channels of its layer"
            received = f"{key} of the shape {value.shape}"
        raise ValueError(f"Expected {expected}. Received: {received} in {checkpoint.path}")


def _in_keras_order(values: Mapping[str, np.ndarray]) -> bool:
    """Return whether kernels are (height, width, input, output), as in Keras."""
    shapes = [value.shape for value in values.values() if value.ndim == 4]
    squares = ((3, 3), (7, 7))
    return sum(shape[:2] in squares for shape in shapes) > sum(
        shape[2:] in squares for shape in shapes
    )


def _keras_order(name: str, array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
        # A classifier may be a 1x1 convolution.
        return array[0, 0] if name == "predictions" and array.shape[:2] == (1, 1) else array
    return array.T if array.ndim == 2 else array


def _name_group_norms(checkpoint: Checkpoint) -> None:
    """Rename normalization layers without moving statistics, which are group normalizations."""
    norms = [roles for name, roles in checkpoint.layers.items() if name.endswith("_bn")]
    if any("moving_mean" in roles for roles in norms):
        return  # The loader lists missing statistics.
    for name in list(checkpoint.layers):
        checkpoint.layers[re.sub("_bn$", "_gn", name)] = checkpoint.layers.pop(name)
    checkpoint.keys = {
        (re.sub("_bn$", "_gn", name), role): key for (name, role), key in checkpoint.keys.items()
    }
