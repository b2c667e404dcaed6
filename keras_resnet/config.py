"""`ResNetConfig`: one frozen description of a network, checked when it is made.

Every network of the package is such a config. A config that exists can be built: the impossible
ones are refused here, before a layer exists.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

Version = Literal["v1", "v1.5"]
Block = Literal["basic", "bottleneck"]
Shortcut = Literal["A", "B", "C"]
Stem = Literal["imagenet", "cifar"]

#: Output channels of a residual block as a multiple of its stage's `filters` (He et al. 2015,
#: Figure 5).
EXPANSION: Mapping[Block, int] = {"basic": 1, "bottleneck": 4}

#: Per-channel mean and standard deviation of the ImageNet training pixels, RGB, in [0, 255]: the
#: torchvision and timm constants (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225) times 255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class ResNetConfig:
    """Describes one residual (or plain) network.

    Args:
        block: `"basic"` (two 3x3 convolutions) or `"bottleneck"` (1x1, 3x3, 1x1).
        blocks: residual blocks in each stage, conv2_x first, e.g. `(3, 4, 6, 3)`.
        filters: width of each stage; a bottleneck stage puts out four times as many channels.
        version: where a bottleneck has its stride. `"v1"`: on its first 1x1 convolution (He et al.
            2015); `"v1.5"`: on its 3x3 convolution (torchvision, timm, NVIDIA). Basic blocks are
            the same in both.
        shortcut: `"A"` (identity; where the shape changes, subsampled and padded with zero
            channels), `"B"` (projection where the shape changes), `"C"` (projection in every
            block), or `None`: a plain network. He et al. 2015, section 4.1.
        stem: `"imagenet"` (7x7/2 convolution, then 3x3/2 max pooling) or `"cifar"` (one 3x3
            convolution).
        groups: cardinality of the 3x3 convolution of a bottleneck (ResNeXt, Xie et al. 2016).
        width_per_group: width of one group when the stage's `filters` is 64; the 3x3 convolution
            has `groups * width_per_group * filters / 64` channels.
        mean: per-channel mean that the graph subtracts from pixels in [0, 255], RGB.
        std: per-channel standard deviation (not variance) that it then divides by, in the same
            unit.

    Raises:
        ValueError: the network cannot be built as described.
    """

    block: Block
    blocks: tuple[int, ...]
    filters: tuple[int, ...]
    version: Version = "v1.5"
    shortcut: Shortcut | None = "B"
    stem: Stem = "imagenet"
    groups: int = 1
    width_per_group: int = 64
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        _check_choice("block", self.block, get_args(Block))
        _check_choice("version", self.version, get_args(Version))
        _check_choice("shortcut", self.shortcut, (*get_args(Shortcut), None))
        _check_choice("stem", self.stem, get_args(Stem))
        # Lists and NumPy numbers are welcome, but a frozen config must hold nothing that changes.
        for field in ("blocks", "filters"):
            numbers = tuple(_positive_integer(field, item) for item in self._sequence(field))
            object.__setattr__(self, field, numbers)
        for field in ("groups", "width_per_group"):
            object.__setattr__(self, field, _positive_integer(field, getattr(self, field)))
        for field in ("mean", "std"):
            constants = tuple(_finite_number(field, item) for item in self._sequence(field))
            object.__setattr__(self, field, constants)
        if len(self.blocks) != len(self.filters):
            raise ValueError(
                "Expected `blocks` and `filters` to have one entry per stage each. "
                f"Received: blocks={self.blocks}, filters={self.filters}"
            )
        self._check_groups()
        self._check_widening()
        self._check_normalization()

    def _sequence(self, field: str) -> Sequence[Any]:
        value = getattr(self, field)
        if not isinstance(value, (tuple, list)) or not value:
            raise ValueError(
                f"Expected `{field}` to be a tuple with at least one number. Received: {value!r}"
            )
        return value

    def _check_groups(self) -> None:
        if self.block == "basic" and (self.groups, self.width_per_group) != (1, 64):
            raise ValueError(
                "Expected `groups=1` and `width_per_group=64` with `block='basic'`: only "
                "bottlenecks are grouped. "
                f"Received: groups={self.groups}, width_per_group={self.width_per_group}"
            )
        if self.block == "bottleneck" and any(f * self.width_per_group % 64 for f in self.filters):
            raise ValueError(
                "Expected `groups` to divide the width of every 3x3 convolution, so "
                "`filters * width_per_group` must be a multiple of 64. Received: "
                f"groups={self.groups}, width_per_group={self.width_per_group}, "
                f"filters={self.filters}"
            )

    def _check_widening(self) -> None:
        narrowing = any(
            after < before for before, after in zip(self.filters, self.filters[1:], strict=False)
        )
        if self.shortcut == "A" and narrowing:
            raise ValueError(
                "Expected `filters` that never shrink with `shortcut='A'`, which can only add zero "
                f"channels. Received: filters={self.filters}"
            )

    def _check_normalization(self) -> None:
        if len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise ValueError(
                "Expected `mean` and `std` with one entry per channel each, in pixel units (0 to "
                f"255), and `std` > 0. Received: mean={self.mean}, std={self.std}"
            )

    def replace(self, **changes: Any) -> ResNetConfig:
        """Returns a copy with some fields changed; the copy is checked like any config.

        Raises:
            ValueError: an unknown field, or a network that cannot be built.
        """
        known = [field.name for field in dataclasses.fields(self)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise ValueError(
                f"Expected config fields among {known}. Received: {', '.join(unknown)}"
            )
        return dataclasses.replace(self, **changes)

    @property
    def depth(self) -> int:
        """Weighted layers as the paper counts them: stem, main path, classifier."""
        return sum(self.blocks) * (2 if self.block == "basic" else 3) + 2

    @property
    def default_size(self) -> int:
        """Image height and width of the data set that this stem was designed for."""
        return 224 if self.stem == "imagenet" else 32

    @property
    def default_classes(self) -> int:
        """Classes of the data set that this stem was designed for: ImageNet-1k or CIFAR-10."""
        return 1000 if self.stem == "imagenet" else 10


def _check_choice(field: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"Expected `{field}` to be one of {choices}. Received: {field}={value!r}")


def _positive_integer(field: str, value: Any) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ValueError(
            f"Expected `{field}` to be made of integers of at least 1. Received: {value!r}"
        )
    return int(value)


def _finite_number(field: str, value: Any) -> float:
    if (
        not isinstance(value, (int, float, np.number))
        or isinstance(value, bool)
        or not math.isfinite(value)
    ):
        raise ValueError(f"Expected `{field}` to be made of finite numbers. Received: {value!r}")
    return float(value)
