"""Layer names of other packages: one map from this package's names, also used in reverse."""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from keras_resnet.networks.names import place_of

#: Layouts of state dicts: `torchvision` (and timm's `resnet*`), `timm_resnetv2` (timm's
#: pre-activation networks), `transformers` (Hugging Face's `ResNet`), `akamaster`
#: (pytorch_resnet_cifar10), `caffe` (the original release, and the first Keras ResNet50), `keras`
#: (this package and keras.applications).
Layout = Literal["torchvision", "timm_resnetv2", "transformers", "akamaster", "caffe", "keras"]

LAYOUTS: tuple[Layout, ...] = get_args(Layout)

#: Those of torch's packages, whose files are written, too; and the precisions of such files.
TORCH_LAYOUTS = tuple(layout for layout in LAYOUTS if layout not in ("keras", "caffe"))
TorchDtype = Literal["float32", "float16"]


@dataclass(frozen=True)
class Naming:
    """Naming of layers: a layout, and properties of the network that names depend on.

    Attributes:
        layout: the layout.
        deep_stem: whether the stem has three convolutions.
        average: whether average pooling comes before projections (D shortcut). timm then numbers
            the layers of all projections from 1, not from 0.
        numbered: stages, from 2, whose blocks have numbers in Caffe's names (`res4b1`), not letters
            (`res4b`), as in ResNet-101 and 152.
    """

    layout: Layout
    deep_stem: bool = False
    average: bool = False
    numbered: frozenset[int] = field(default_factory=frozenset)

    def prefix(self, name: str) -> str | None:
        """Return the prefix of the keys of layer `name`; `None` if the layout has no such layer.

        `conv2_block1_1_conv` -> `layer1.0.conv1`. Group normalizations are named like BN.
        """
        if self.layout == "keras":
            return name
        name = re.sub("_gn$", "_bn", name)
        place = place_of(name)
        if place is None or not re.fullmatch("[a-z0-9]+_[a-z]+", place.part):
            ends = _DEEP_STEMS.get(self.layout, {}) if self.deep_stem else _ENDS[self.layout]
            return ends.get(name)
        part, _, kind = place.part.partition("_")
        plain = self.layout in ("transformers", "akamaster", "caffe")
        if plain and (self.average or part in ("preact", "se")):
            return None
        return _BLOCKS[self.layout](self, place.stage, place.block, part, kind)

    def inverse(self, prefixes: Iterable[str]) -> dict[str, str]:
        """Return the layer name for each known prefix of keys."""
        wanted = set(prefixes)
        if self.layout == "keras":
            return {prefix: prefix for prefix in wanted if re.fullmatch(_LAYER_NAMES, prefix)}
        most = max((int(n) for p in wanted for n in re.findall(r"\d{1,4}", p)), default=0)
        most = min(most, len(wanted))  # A key may contain any number.
        found = {}
        for name in _names(most + 2):
            prefix = self.prefix(name)
            if prefix in wanted:
                found[prefix] = name
        return found


#: Names of this package's layers with weights.
_LAYER_NAMES = (
    r"conv1(_[1-3])?_(conv|bn|gn)|post_(bn|gn)|predictions"
    r"|conv\d+_block\d+_[a-z0-9]+_(conv|bn|gn|reduce|expand)"
)


def _names(blocks: int) -> Iterator[str]:
    """Yield the names of all layers with weights in networks of up to `blocks` per stage."""
    for conv in ("conv1", "conv1_1", "conv1_2", "conv1_3"):
        yield from (f"{conv}_conv", f"{conv}_bn")
    yield from ("post_bn", "predictions")
    parts = [f"{part}_{kind}" for part in range(4) for kind in ("conv", "bn")]
    parts += ["preact_bn", "se_reduce", "se_expand"]
    for stage, number in itertools.product(range(2, 7), range(1, blocks + 1)):
        yield from (f"conv{stage}_block{number}_{part}" for part in parts)


def _torchvision(naming: Naming, stage: int, number: int, part: str, kind: str) -> str | None:
    prefix = f"layer{stage - 1}.{number - 1}."
    if part == "preact":
        return None
    if part == "0":
        return f"{prefix}downsample.{(kind == 'bn') + naming.average}"
    if part == "se":
        return f"{prefix}se.{'fc1' if kind == 'reduce' else 'fc2'}"
    return f"{prefix}{kind}{part}"


def _timm_resnetv2(naming: Naming, stage: int, number: int, part: str, kind: str) -> str | None:
    prefix = f"stages.{stage - 2}.blocks.{number - 1}."
    if part == "0":
        return f"{prefix}downsample.conv" if kind == "conv" else None
    if part == "preact":
        return f"{prefix}norm1"
    if part == "se":
        return None
    # norm1 is the pre-activation; the first convolution is followed by norm2.
    return f"{prefix}conv{part}" if kind == "conv" else f"{prefix}norm{int(part) + 1}"


def _transformers(naming: Naming, stage: int, number: int, part: str, kind: str) -> str | None:
    prefix = f"resnet.encoder.stages.{stage - 2}.layers.{number - 1}."
    prefix += "shortcut" if part == "0" else f"layer.{int(part) - 1}"
    return f"{prefix}.{'convolution' if kind == 'conv' else 'normalization'}"


def _akamaster(naming: Naming, stage: int, number: int, part: str, kind: str) -> str | None:
    prefix = f"layer{stage - 1}.{number - 1}."
    return f"{prefix}shortcut.{int(kind == 'bn')}" if part == "0" else f"{prefix}{kind}{part}"


def _caffe(naming: Naming, stage: int, number: int, part: str, kind: str) -> str | None:
    if number == 1:
        letter = "a"
    elif stage in naming.numbered:
        letter = f"b{number - 1}"
    elif number <= 26:
        letter = string.ascii_lowercase[number - 1]
    else:
        return None
    branch = "branch1" if part == "0" else f"branch2{'abc'[int(part) - 1]}"
    return f"{'res' if kind == 'conv' else 'bn'}{stage}{letter}_{branch}"


_BLOCKS: Mapping[Layout, Callable[[Naming, int, int, str, str], str | None]] = {
    "torchvision": _torchvision,
    "timm_resnetv2": _timm_resnetv2,
    "transformers": _transformers,
    "akamaster": _akamaster,
    "caffe": _caffe,
}


#: Layer names of stem and head -> prefixes of keys.
_ENDS: Mapping[Layout, Mapping[str, str]] = {
    "torchvision": {"conv1_conv": "conv1", "conv1_bn": "bn1", "predictions": "fc"},
    "timm_resnetv2": {"conv1_conv": "stem.conv", "post_bn": "norm", "predictions": "head.fc"},
    "transformers": {
        "conv1_conv": "resnet.embedder.embedder.convolution",
        "conv1_bn": "resnet.embedder.embedder.normalization",
        "predictions": "classifier.1",
    },
    "akamaster": {"conv1_conv": "conv1", "conv1_bn": "bn1", "predictions": "linear"},
    "caffe": {"conv1_conv": "conv1", "conv1_bn": "bn_conv1", "predictions": "fc1000"},
}

_DEEP_STEMS: Mapping[Layout, Mapping[str, str]] = {
    "torchvision": {
        "conv1_1_conv": "conv1.0",
        "conv1_1_bn": "conv1.1",
        "conv1_2_conv": "conv1.3",
        "conv1_2_bn": "conv1.4",
        "conv1_3_conv": "conv1.6",
        "conv1_3_bn": "bn1",
        "predictions": "fc",
    },
    "timm_resnetv2": {
        "conv1_1_conv": "stem.conv1",
        "conv1_1_bn": "stem.norm1",
        "conv1_2_conv": "stem.conv2",
        "conv1_2_bn": "stem.norm2",
        "conv1_3_conv": "stem.conv3",
        "post_bn": "norm",
        "predictions": "head.fc",
    },
}
