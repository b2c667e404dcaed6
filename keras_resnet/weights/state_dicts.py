"""Search of a ResNet's state dict in the content of a file, and its simplification.

Training scripts wrap state dicts in dicts, and networks in modules, which adds a prefix to every
key. Libraries add tensors of their own to the weights, or store weights as products.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_resnet.support.checks import some_of
from keras_resnet.weights.torch_pickle import Module

#: Keys of a ResNet with their prefix, in any layout (see `mapping`).
_NETWORK = re.compile(
    r"(?P<prefix>(?:[^.]+\.)*?)"
    r"(?:layer\d+\.\d+\.|stages\.\d+\.blocks\.|(?:resnet\.)?encoder\.stages\.\d+\.layers\."
    r"|res\d[a-z]\d*_branch|conv\d+_block\d+_)"
)

#: Names of several state dicts of one network in a file. The first one present is used; averaged
#: weights come first, as in timm.
_PREFERRED = (
    *("state_dict_ema", "model_ema", "params_ema", "ema_state_dict", "ema_model", "ema"),
    *("state_dict", "model_state_dict", "model", "net", "params", "weights"),
)

#: Tensors that are no weights: counters of averaging and of profilers (`thop`), losses.
_LEFT_OVER = re.compile(r"(.*\.)?(n_averaged|total_ops|total_params)|(criterion|loss\w*)\..*")

#: Names of stems and of classifiers, in any layout.
_STEM = re.compile(r"(stem|conv1|(resnet\.)?embedder)[._]")
_HEAD = re.compile(r"(head|fc|fc1000|linear|classifier|predictions|probs)\.")


@dataclass
class StateDict:
    """The weights of a network.

    Attributes:
        values: arrays by key, without the prefix of a wrapper.
        metadata: `mean` and `std` of pixels in [0, 255], as JSON, if the network normalizes its
            pixels itself.
        notes: conversions, for the report.
    """

    values: dict[str, np.ndarray]
    metadata: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find_state_dict(loaded: Any) -> StateDict:
    """Find the state dict of a ResNet in nested dicts and lists, and simplify it.

    Prefixes of keys and tensors that are no weights are removed. Products (masks of pruning, weight
    norm and spectral norm) are multiplied out. Every change is noted.

    Args:
        loaded: content of a file: a dict, list or `Module` of arrays, or of nested ones.

    Raises:
        ValueError: there is no state dict, or there are several.
    """
    found = dict(_state_dicts(loaded, ()))
    if not found:
        what = f"only {some_of(sorted(loaded))}" if isinstance(loaded, dict) and loaded else ""
        raise ValueError(f"a file without weights{what and f', {what}'}")
    path = _chosen(found)
    result = StateDict(dict(found[path]))
    if path:
        others = [_name(other) for other in found if other != path and _prefixes(found[other])]
        also = f", which also has {some_of(others)}" if others else ""
        result.notes.append(f"weights taken from {_name(path)} in the file{also}")
    _leave_out(result, _LEFT_OVER.fullmatch)
    _take_pixels(result)
    _strip(result)
    _multiply_out(result)
    return result


#: A path in nested dicts and lists: the keys from the outside in.
_Path = tuple[str, ...]


def _state_dicts(
    loaded: Any, path: _Path, seen: set[int] | None = None
) -> Iterator[tuple[_Path, dict[str, np.ndarray]]]:
    """Yield all dicts that contain arrays, each once; for a module, all arrays below it."""
    seen = set() if seen is None else seen
    if not isinstance(loaded, (dict, list, tuple)) or id(loaded) in seen:
        return
    seen.add(id(loaded))
    if isinstance(loaded, Module):
        if below := dict(_arrays_below(loaded, "", set())):
            yield path, below
        return
    items = loaded.items() if isinstance(loaded, dict) else enumerate(loaded)
    inside = {str(key): value for key, value in items}
    arrays = {key: value for key, value in inside.items() if isinstance(value, np.ndarray)}
    if arrays:
        yield path, arrays
    for key, value in inside.items():
        yield from _state_dicts(value, (*path, key), seen)


def _arrays_below(module: Module, prefix: str, seen: set[int]) -> Iterator[tuple[str, np.ndarray]]:
    # A module that contains itself would have endless names.
    seen.add(id(module))
    for name, value in module.items():
        if isinstance(value, np.ndarray):
            yield prefix + name, value
        elif isinstance(value, Module) and id(value) not in seen:
            yield from _arrays_below(value, f"{prefix}{name}.", seen)


def _prefixes(values: Mapping[str, np.ndarray]) -> list[str]:
    """Return the prefix of each ResNet in the keys."""
    matches = filter(None, map(_NETWORK.match, values))
    return list(dict.fromkeys(match["prefix"] for match in matches))


def _chosen(found: Mapping[_Path, Mapping[str, np.ndarray]]) -> _Path:
    # A single state dict is used whatever its keys are.
    networks = [path for path in found if _prefixes(found[path])] or [*found]
    if len(networks) == 1:
        return networks[0]
    known = [path for name in _PREFERRED for path in networks if path[-1:] == (name,)]
    if known:
        return known[0]
    listed = [f"{_name(path)} with {some_of(sorted(found[path]), 2)}" for path in networks]
    raise ValueError(
        f"{len(networks)} state dicts: {some_of(listed, 3)}. Save the one of the ResNet into a "
        "file of its own, with `torch.save`"
    )


def _name(path: _Path) -> str:
    return repr("/".join(path)[:80]) if path else "the top level"


def _leave_out(
    result: StateDict, unwanted: Callable[[str], object], what: str = "no weights of a network"
) -> None:
    left_out = sorted(filter(unwanted, result.values))
    if left_out:
        result.values = {k: v for k, v in result.values.items() if k not in {*left_out}}
        result.notes.append(f"left out, as {what}: {some_of(left_out)}")


def _strip(result: StateDict) -> None:
    """Remove the prefix of the ResNet's keys, and all arrays outside of the network.

    A classifier beside the network stays, without the prefix of a wrapper around both.
    """
    prefixes = _prefixes(result.values)
    if len(prefixes) > 1:
        raise ValueError(
            f"{len(prefixes)} ResNets, under the prefixes {some_of([repr(p) for p in prefixes])}. "
            "Save the one that you want into a file of its own: `torch.save({k: v for k, v in "
            f"state.items() if k.startswith({prefixes[0]!r})}}, path)`"
        )
    if prefixes in ([], [""]):
        return
    (prefix,) = prefixes
    *wrapper, last = prefix.removesuffix(".").split(".")
    outer = "".join(f"{name}." for name in wrapper)
    beside = {key for key in result.values if not key.startswith(prefix)}
    foreign = _foreign(result.values, prefix, outer)
    _leave_out(result, foreign.__contains__, f"no part of the ResNet behind {prefix[:80]!r}")
    short: dict[str, np.ndarray] = {}
    for key, value in result.values.items():
        name = key.removeprefix(outer) if key in beside else key.removeprefix(prefix)
        if key in beside and last == "backbone":
            # mmpretrain separates backbone and head.
            name = re.sub(r"^head\.(?=fc\.)", "", name)
        if name in short:
            raise ValueError(f"two arrays for {name}: one in {prefix!r} and one beside it")
        short[name] = value
    result.values = short
    result.notes.append(f"prefix {prefix[:80]!r} removed from the keys")


def _foreign(values: Mapping[str, np.ndarray], prefix: str, outer: str) -> set[str]:
    """Return the keys that do not belong to the ResNet.

    If no stem or classifier is found by name, weights with other names are kept, as they may be it.

    Args:
        values: arrays by key.
        prefix: prefix of the ResNet's keys.
        outer: prefix of the wrapper around the ResNet.
    """
    beside = {key: key.removeprefix(outer) for key in values if not key.startswith(prefix)}
    inside = [key.removeprefix(prefix) for key in values if key.startswith(prefix)]
    whole = any(map(_STEM.match, inside)) and any(map(_HEAD.match, [*inside, *beside.values()]))
    return {
        key
        for key, name in beside.items()
        if not np.issubdtype(values[key].dtype, np.floating)
        or (
            not (_HEAD.match(name) or _STEM.match(name))
            and (whole or not re.search(r"\.(weight|bias|kernel|original)\w*$", name))
        )
    }


def _take_pixels(result: StateDict) -> None:
    """Move buffers such as `normalize.mean` and `normalize.std` to the metadata."""
    for key in sorted(result.values):
        match = re.fullmatch(r"((?:.*[._])?)mean", key)
        if match is None or key.endswith("running_mean"):
            continue
        names = (key, f"{match[1]}std")
        constants = [np.ravel(result.values[name]) for name in names if name in result.values]
        if [len(constant) for constant in constants] not in ([3, 3], [1, 1]):
            continue
        # Of pixels in [0, 1], as from torchvision's `ToTensor`, or in [0, 255].
        most = 1 if max(float(constant.max()) for constant in constants) <= 1 else 255
        for name, constant in zip(("mean", "std"), constants, strict=True):
            numbers = np.resize(constant.astype(np.float64), 3) * (255 / most)
            result.metadata[name] = json.dumps([round(float(number), 4) for number in numbers])
        _leave_out(result, names.__contains__)
        result.notes[-1] = (
            f"{' and '.join(names)} taken as mean and standard deviation of pixels in [0, {most}]"
        )
        return


def _multiply_out(result: StateDict) -> None:
    """Compute weights that `torch.nn.utils` stores as products, in its old and new formats.

    Masks of pruning: https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.prune.html.
    Weight norm (Salimans and Kingma 2016): g v / |v|. Spectral norm (Miyato et al. 2018): the
    weight divided by its largest singular value, whose singular vectors are u and v.
    """
    for (parts, how), product in _PRODUCTS.items():
        values, count = result.values, 0
        for key in [key for key in values if key.endswith(parts[0])]:
            weight = key.removesuffix(parts[0])
            names = [f"{weight}{part}" for part in parts]
            if any(name not in values for name in names):
                continue
            # Parametrized modules have `parametrizations` in their names.
            target = re.sub(r"\.parametrizations\.([^.]+)$", r".\1", weight)
            if target in values:
                raise ValueError(f"{target} beside {names[0]}, from which it is computed")
            factors = [np.asarray(values.pop(name), np.float64) for name in names]
            with np.errstate(all="ignore"):  # Values that are not finite are refused later.
                values[target] = product(*factors).astype(np.float32)
            count += 1
        if count:
            result.notes.append(f"{how} {count} {'weight' if count == 1 else 'weights'}")


def _masked(weight: np.ndarray, mask: np.ndarray) -> np.ndarray:
    if weight.shape != mask.shape:
        raise ValueError(f"a weight of shape {weight.shape} with a mask of {mask.shape}")
    return weight * mask


def _weight_normed(length: np.ndarray, direction: np.ndarray) -> np.ndarray:
    axes = tuple(axis for axis, size in enumerate(length.shape) if size == 1)
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(direction.shape))
    if length.ndim and length.shape != shape:
        raise ValueError(f"weight norm of {length.shape} for a weight of {direction.shape}")
    # A scalar is the norm of the whole weight.
    return length * direction / np.sqrt((direction**2).sum(axes or None, keepdims=length.ndim > 0))


def _spectral_normed(weight: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    if not weight.ndim or (left.size, right.size) != (len(weight), weight[:1].size):
        raise ValueError(f"spectral norm of {left.shape}, {right.shape} for {weight.shape}")
    return weight / (left.ravel() @ weight.reshape(len(weight), -1) @ right.ravel())


#: (Endings of the keys of the factors, note) -> product.
_PRODUCTS: dict[tuple[tuple[str, ...], str], Callable[..., np.ndarray]] = {
    (("_orig", "_mask"), "masks of pruning multiplied into"): _masked,
    (("_g", "_v"), "weight norm multiplied into"): _weight_normed,
    ((".original0", ".original1"), "weight norm multiplied into"): _weight_normed,
    (("_orig", "_u", "_v"), "spectral norm divided out of"): _spectral_normed,
    ((".original", ".0._u", ".0._v"), "spectral norm divided out of"): _spectral_normed,
}
