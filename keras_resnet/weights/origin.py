"""Facts about a checkpoint from its metadata, a `config.json` beside it, and its name.

Keys and shapes do not show activations, anti-aliasing, dilation, pooling or standardized weights:
networks that compute something else may have the same keys as this package's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_resnet.models.archive import describe_damage
from keras_resnet.support.json_text import load_json, parse_json
from keras_resnet.weights.layers import Constants

#: Patterns of architectures that compute something else with the same keys -> the difference.
_OTHERS = {
    r"resne(t|xt)aa\d": "average pooling in place of strides and of max pooling",
    r"resnetv2_\d+x\d+_bit|_gn_ws": "convolutions that standardize their weights",
    r"resne(t|xt)\d+\w*_(caffe|msra)": "the strides and the pixels of Caffe",
}
_ADVICE = ". If the name is wrong, rename the file"
_BLURRED = r"resne(t|xt)blur\d"

#: Arguments of timm that keys and shapes show, or that matter in training only.
_SHOWN = {
    *("avg_down", "base_width", "block_reduce_first", "bottle_ratio", "cardinality", "channels"),
    *("down_kernel_size", "drop_block_rate", "drop_path_rate", "drop_rate", "img_size", "in_chans"),
    *("layers", "num_classes", "replace_stem_pool", "stem_chs", "stem_width", "width_factor"),
    "zero_init_last",
}
#: Other arguments of timm -> the values that networks of this package have.
_SAME = {
    "act_layer": ("relu",),
    "global_pool": ("", "avg", "fast", "fastavg"),
    "norm_layer": ("batchnorm", "batchnorm2d", "batchnormact2d", "groupnorm", "groupnormact"),
    "output_stride": ("32",),
    "stem_type": ("", "deep"),
}


@dataclass(frozen=True)
class Origin:
    """Facts about a checkpoint's network besides its keys.

    Attributes:
        architecture: name of the architecture; `None` if it is unknown.
        fields: fields of `ResNetConfig` that keys do not show.
        constants: mean and standard deviation of pixels in [0, 255]; `None` if they are unknown.
        notes: where the facts are from, for the report.
    """

    architecture: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    constants: Constants | None = None
    notes: tuple[str, ...] = ()


def find_origin(path: str, metadata: Mapping[str, str], with_top: bool) -> Origin:
    """Find facts in the file's metadata, else in a `config.json` beside it, else in its name.

    Args:
        path: path of the checkpoint.
        metadata: text metadata of the file.
        with_top: whether the classifier is needed, so that the pooling before it matters.

    Raises:
        ValueError: the facts are of a network that this package does not have.
    """
    notes: list[str] = []
    fields: dict[str, Any] = {}
    architecture, constants = None, None
    for place, facts in (("its metadata", _parsed(metadata)), ("config.json", _read(path, notes))):
        if facts.get("model_type") == "resnet":
            found = _of_transformers(facts, place)
        elif any(key in facts for key in ("architecture", "model_args", "pretrained_cfg")):
            found = _of_timm(facts, place, with_top)
        else:
            continue
        fields, said = {**found, **fields}, facts.get("architecture")
        architecture = architecture or (str(said)[:80] if said else None)
        parts = [repr(said)[:80]] if said else []
        parts += [f"{name}={value}" for name, value in found.items()]
        # Before timm 0.9, `config.json` was flat.
        flat = facts if place == "config.json" else {}
        if here := _constants(_mapping(facts.get("pretrained_cfg")) or flat):
            constants = constants or here
            parts.append("the mean and standard deviation of pixels")
        notes += [f"{place} says {', '.join(parts)}"] if parts else []
    for name in () if architecture else _names(path):
        if re.search("resne(t|xt)", name):
            architecture, found = name, _of_architecture(name, "its name", _ADVICE)
            fields = {**found, **fields}
            notes += [f"its name says blur pooling: {name!r}"] if found else []
            break
    return Origin(architecture, fields, constants, tuple(notes))


def _of_architecture(name: str, place: str, advice: str = "") -> dict[str, Any]:
    for pattern, what in _OTHERS.items():
        if re.search(pattern, name):
            raise ValueError(f"{place} says {name}, a network with {what}{advice}")
    return {"blur_pool": True} if re.search(_BLURRED, name) else {}


def _of_timm(facts: Mapping[str, Any], place: str, with_top: bool) -> dict[str, Any]:
    fields = _of_architecture(str(facts.get("architecture")).lower(), place)
    arguments = {"global_pool": facts.get("global_pool"), **_mapping(facts.get("model_args"))}
    for name, value in arguments.items():
        same = str(value).lower().replace("_", "") in _SAME.get(name, ())
        if value is None or same or name in _SHOWN or (name == "global_pool" and not with_top):
            continue
        if name == "output_stride":
            fields[name] = value
        elif name == "aa_layer" and value in ("blur", "blurpool", "blur_pool"):
            fields["blur_pool"] = True
        else:
            advice = ". Pass `include_top=False`" if name == "global_pool" else ""
            raise ValueError(
                f"{place} says {name}={value!r}, which this package does not have{advice}"
            )
    return fields


def _of_transformers(facts: Mapping[str, Any], place: str) -> dict[str, Any]:
    for name, same in (("hidden_act", "relu"), ("downsample_in_first_stage", False)):
        if facts.get(name, same) != same:
            raise ValueError(
                f"{place} says {name}={facts[name]!r}, which this package does not have"
            )
    return {"version": "v1"} if facts.get("downsample_in_bottleneck") else {}


def _constants(pretrained: Mapping[str, Any]) -> Constants | None:
    """Convert timm's mean and standard deviation of pixels in [0, 1] to [0, 255]."""
    if not {"mean", "std"} <= pretrained.keys():
        return None
    mean, std = (tuple(round(255 * x, 4) for x in pretrained[key]) for key in ("mean", "std"))
    return mean, std


def _parsed(metadata: Mapping[str, str]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for key, text in metadata.items():
        try:
            facts[key] = parse_json(text)
        except (ValueError, TypeError):
            facts[key] = text
    return {**_mapping(facts.get("config")), **facts}


def _read(path: str, notes: list[str]) -> dict[str, Any]:
    """Return the facts in a `config.json` beside a file."""
    file = Path(path).with_name("config.json")
    if not file.is_file():
        return {}
    try:
        return _mapping(load_json(file))
    except (OSError, ValueError) as error:
        notes.append(f"config.json beside it was not read: {describe_damage(error)}")
        return {}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _names(path: str) -> Iterator[str]:
    """Yield the names of a file, its repository in Hugging Face's cache, and its directory."""
    # Files in the cache are links to files that are named by their hash.
    given, real = Path(path).absolute(), Path(os.path.realpath(path))
    names = [given.name, real.name]
    names += [part for part in (*given.parts, *real.parts) if part.startswith("models--")]
    for name in (*names, given.parent.name):
        yield name.rpartition("--")[2].lower()
