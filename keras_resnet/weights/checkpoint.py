"""A checkpoint in our terms: whose names its keys are, and its arrays by our layers' names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from keras_resnet.networks.names import place_of
from keras_resnet.weights.mapping import Layout, Naming
from keras_resnet.weights.readers import Arrays, read_arrays

#: Kinds of weights a layer may have, in the order in which Keras lists them.
CONV_ROLES = ("kernel", "bias")
NORM_ROLES = ("gamma", "beta", "moving_mean", "moving_variance")

_TORCH_ROLES = {
    "weight": ("kernel", "gamma"),
    "bias": ("bias", "beta"),
    "running_mean": ("moving_mean", "moving_mean"),
    "running_var": ("moving_variance", "moving_variance"),
}


@dataclass
class Checkpoint:
    """Weights of a ResNet, in Keras' order of axes, by our names of the layers.

    Attributes:
        source: where they come from, for messages.
        naming: whose names the keys are.
        layers: layer -> role (`kernel`, `bias`, `gamma`, …) -> array.
        keys: (layer, role) -> key in the file.
        unknown: keys that name no layer of a ResNet.
        other_layers: layers of the saved model without weights, where the file lists them.
        metadata: what else the file says.
        notes: what was decided on the way.
    """

    source: str
    naming: Naming
    layers: dict[str, dict[str, np.ndarray]]
    keys: dict[tuple[str, str], str]
    unknown: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    other_layers: frozenset[str] = frozenset()

    def array(self, layer: str, role: str = "kernel") -> np.ndarray | None:
        return self.layers.get(layer, {}).get(role)


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a file of weights, and recognises whose names it uses.

    Raises:
        ValueError: the file cannot be read, or is not of a ResNet.
    """
    return understand(read_arrays(path), os.fspath(path))


def understand(arrays: Arrays, source: str) -> Checkpoint:
    """Translates keys into our names and arrays into Keras' order.

    Raises:
        ValueError: the keys are none of a ResNet, or an array is not what its key says, not of
            floats or not finite.
    """
    values = {key: value for key, value in arrays.values.items() if not _is_counter(key)}
    if any(key.startswith("embedder.") for key in values):
        values = {f"resnet.{key}": value for key, value in values.items()}
    naming = _recognise(values, source)
    heads = {} if naming.layout != "keras" else {"probs": "predictions", "fc1000": "predictions"}
    prefixes = {key: key.rpartition(".")[0] for key in values}
    prefixes = {key: heads.get(prefix, prefix) for key, prefix in prefixes.items()}
    # No network has blocks of higher numbers than it has arrays; looking for them takes long.
    ours = naming.inverse(
        prefix
        for prefix in prefixes.values()
        if all(int(n) <= len(values) for n in re.findall(r"\d+", prefix.removeprefix("fc1000")))
    )
    in_keras_order = _in_keras_order(values)
    layers: dict[str, dict[str, np.ndarray]] = {}
    keys: dict[tuple[str, str], str] = {}
    unknown = []
    for key, value in values.items():
        name = ours.get(prefixes[key])
        norm = name is not None and name.endswith(("_bn", "_gn"))
        role = _role(key.rpartition(".")[2], norm=norm)
        if name is None or role is None:
            unknown.append(key)
            continue
        _check_numbers(key, value, source)
        if (name, role) in keys:
            raise ValueError(
                f"Expected one {name}/{role}. Received: {keys[name, role]} and {key} in {source}"
            )
        value = value if in_keras_order else _keras_order(name, value)
        layers.setdefault(name, {})[role] = value
        keys[name, role] = key
    _check_shapes(layers, keys, source)
    _check_norms(layers, keys, source)
    result = Checkpoint(
        source,
        naming,
        layers,
        keys,
        tuple(sorted(unknown)),
        arrays.metadata,
        list(arrays.notes),
        arrays.layers - layers.keys(),
    )
    return _name_group_norms(result)


def _is_counter(key: str) -> bool:
    """How often torch has updated a BN's statistics has no counterpart."""
    return key.endswith("num_batches_tracked")


def _recognise(values: Mapping[str, np.ndarray], source: str) -> Naming:
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
            f"or Caffe. Received: {source} with {some}, …"
        )
    projections = [
        value.ndim
        for key, value in values.items()
        if re.search(r"\.downsample\.1\.weight$", key) is not None
    ]
    deep = bool({"conv1.0", "stem.conv1"} & names)
    return Naming(layout, deep, average=4 in projections, numbered=numbered)


def _role(suffix: str, *, norm: bool) -> str | None:
    if suffix in _TORCH_ROLES:
        return _TORCH_ROLES[suffix][norm]
    return suffix if suffix in (NORM_ROLES if norm else CONV_ROLES) else None


def _check_numbers(key: str, value: np.ndarray, source: str) -> None:
    if not np.issubdtype(value.dtype, np.floating):
        raise ValueError(f"Expected floats. Received: {key} of {value.dtype} in {source}")
    if not np.isfinite(value).all():
        raise ValueError(f"Expected finite weights. Received: NaN or infinity in {key} in {source}")


def _check_shapes(
    layers: Mapping[str, Mapping[str, np.ndarray]], keys: Mapping[tuple[str, str], str], source: str
) -> None:
    """Every array has its axes; a bias and the normalisation behind it will be merged."""
    channels: dict[str, int] = {}
    for name, roles in layers.items():
        for role, value in roles.items():
            axes = 1 if role != "kernel" else 2 if name == "predictions" else 4
            same = axes > 1 or value.size == channels.setdefault(
                re.sub("_(conv|bn|gn)$", "", name), value.size
            )
            if value.ndim != axes or not value.size or not same:
                raise ValueError(
                    f"Expected {name}/{role} with {axes} axes and the channels of its layer. "
                    f"Received: {keys[name, role]} of the shape {value.shape} in {source}"
                )


def _check_norms(
    layers: Mapping[str, Mapping[str, np.ndarray]], keys: Mapping[tuple[str, str], str], source: str
) -> None:
    for name, roles in layers.items():
        variance = roles.get("moving_variance")
        if variance is not None and (variance < 0).any():
            # The mark of statistics that were swapped or shifted on the way.
            raise ValueError(
                "Expected variances, which are never negative. "
                f"Received: {keys[name, 'moving_variance']} in {source}"
            )


def _in_keras_order(values: Mapping[str, np.ndarray]) -> bool:
    """Whether kernels are (height, width, input, output), as Keras has them."""
    shapes = [value.shape for value in values.values() if value.ndim == 4]
    ahead = sum(shape[:2] in _SQUARES for shape in shapes)
    return ahead > sum(shape[2:] in _SQUARES for shape in shapes)


_SQUARES = ((3, 3), (7, 7))


def _keras_order(name: str, array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
        # A classifier may be a 1x1 convolution.
        return array[0, 0] if name == "predictions" and array.shape[:2] == (1, 1) else array
    return array.T if array.ndim == 2 else array


def _name_group_norms(checkpoint: Checkpoint) -> Checkpoint:
    """Normalisations without statistics are those of groups."""
    norms = [name for name in checkpoint.layers if name.endswith("_bn")]
    without = {name for name in norms if "moving_mean" not in checkpoint.layers[name]}
    if not norms or without != set(norms):
        return checkpoint  # What is missing will be named.

    def renamed(name: str) -> str:
        return re.sub("_bn$", "_gn", name)

    checkpoint.layers = {renamed(name): roles for name, roles in checkpoint.layers.items()}
    checkpoint.keys = {(renamed(n), role): key for (n, role), key in checkpoint.keys.items()}
    return checkpoint


def names(items: Iterable[str], most: int = 3) -> str:
    """The first few of `items`, and how many more there are."""
    listed = list(items)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
