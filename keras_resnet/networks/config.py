"""`ResNetConfig`, the frozen description of a network.

Every config that exists can be built: its constructor raises ValueError for impossible networks.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from keras_resnet.support.checks import check_choice, check_integer, store_integers
from keras_resnet.support.suggest import did_you_mean

Version = Literal["v1", "v1.5", "v2"]
Block = Literal["basic", "bottleneck"]
Shortcut = Literal["A", "B", "C"]
Stem = Literal["imagenet", "C", "cifar"]
Downsample = Literal["strided", "average"]
PreactLayout = Literal["stem_norm", "unit_norm", "unit_norm_stride_last"]
PreactStride = Literal["1x1", "3x3"]
Norm = Literal["batch", "group"]

#: Output channels of a residual block as a multiple of its stage's `filters` (He et al. 2015,
#: Figure 5).
EXPANSION: Mapping[Block, int] = {"basic": 1, "bottleneck": 4}

#: Per-channel mean and standard deviation of the ImageNet training pixels, RGB, in [0, 255]: the
#: torchvision and timm constants (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225) times 255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class ResNetConfig:
    """Description of one residual or plain network.

    Args:
        block: `"basic"` (two 3x3 convolutions) or `"bottleneck"` (1x1, 3x3, 1x1).
        blocks: number of residual blocks in each stage, conv2_x first, such as `(3, 4, 6, 3)`.
        filters: width of each stage; the output of a bottleneck stage has four times as many
            channels.
        version: `"v1"`: post-activation, stride of a bottleneck on its first 1x1 convolution (He et
            al. 2015); `"v1.5"`: the same with the stride on the 3x3 convolution (torchvision, timm,
            NVIDIA); `"v2"`: pre-activation (He et al. 2016). Basic blocks of v1 and v1.5 are equal.
        shortcut: `"A"` (identity; where the shape changes, subsampled and padded with zero
            channels), `"B"` (projection where the shape changes), `"C"` (projection in every
            block), or `None`: a plain network. He et al. 2015, section 4.1.
        stem: `"imagenet"` (7x7/2 convolution, then 3x3/2 max pooling), `"C"` (three 3x3
            convolutions instead of the 7x7; the C stem of He et al. 2019) or `"cifar"` (one 3x3
            convolution).
        stem_filters: output channels of the stem; by default the width of the first stage.
        downsample: how a projection halves the resolution: `"strided"` (1x1 convolution with stride
            2) or `"average"` (2x2 average pooling, then the 1x1 convolution; the D shortcut of He
            et al. 2019).
        groups: cardinality of the 3x3 convolution of a bottleneck (ResNeXt, Xie et al. 2016).
        width_per_group: width of one group when the stage's `filters` is 64; the 3x3 convolution
            has `groups * width_per_group * filters / 64` channels.
        width: factor of the widths of the stem and of every stage; with any other factor than 1,
            they are rounded to multiples of 8, at least 8.
        preact_layout: one of three incompatible kinds of v2 networks. `"stem_norm"`: normalization
            and ReLU follow the convolution of the stem, and the first block has no pre-activation
            of its own (the paper, fb.resnet.torch). `"unit_norm"`: the stem has no normalization,
            and every block has its own pre-activation (timm's `resnetv2`).
            `"unit_norm_stride_last"`: as `"unit_norm"`, but the last block of a stage halves the
            resolution, and convolutions without a normalization after them have a bias
            (keras.applications' V2, TF-Slim).
        preact_stride: the convolution of a v2 bottleneck with the stride: `"3x3"`
            (fb.resnet.torch, timm) or `"1x1"`, the first one (the paper's CIFAR networks).
        norm: `"batch"` or `"group"` normalization (Wu and He 2018).
        norm_groups: number of groups of the group normalization.
        se_ratio: width of squeeze-and-excitation (Hu et al. 2018) relative to the block's output,
            such as `1 / 16`; rounded to a multiple of 8, at least 8. 0 is for none.
        blur_pool: whether a binomial 3x3 filter after the activation does the striding of the main
            path and of the max pooling (Zhang 2019), as in timm. Projections keep their strides.
            Where `output_stride` removes a stride, the filter stays.
        stochastic_depth: probability of skipping the last block in training; the probabilities of
            the other blocks grow linearly with depth (Huang et al. 2016).
        zero_init_residual: whether the scale of the last normalization of every block is
            initialized to zero (in v2: the kernel of its last convolution), so that blocks start as
            identities (Goyal et al. 2017).
        output_stride: input pixels per position of the last feature map, such as 8 or 16; once it
            is reached, dilation replaces further strides. By default, no stride is replaced. The
            minimum is the stride of the stem, 4 with the ImageNet stem. ResNet-50 then has 18 times
            the multiply-adds (with 8, 4.7 times; with 16, 1.5 times).

            The weights are the same with and without `output_stride`. So are the features at
            positions that both networks have, with two exceptions. Squeeze-and-excitation and group
            normalization average over all positions. Blur pooling and D shortcuts average
            neighbors, which are closer to each other after a removed stride, so the features are
            the same only if one stride is removed. Blur pooling matches timm. D shortcuts match
            timm except at the bottom and right edges, where timm's average includes zero padding.
        mean: mean of each channel that the model subtracts from pixels, RGB in [0, 255].
        std: standard deviation (not variance) of each channel that the model divides by, in the
            same unit.

    Raises:
        ValueError: no network can be built from these fields.

    Examples:
        >>> config = keras_resnet.ResNetConfig("bottleneck", (3, 4, 6, 3), (64, 128, 256, 512))
        >>> config.depth, config.replace(stem="C").depth
        (50, 52)
    """

    block: Block
    blocks: tuple[int, ...]
    filters: tuple[int, ...]
    version: Version = "v1.5"
    shortcut: Shortcut | None = "B"
    stem: Stem = "imagenet"
    stem_filters: int | None = None
    downsample: Downsample = "strided"
    groups: int = 1
    width_per_group: int = 64
    width: float = 1.0
    preact_layout: PreactLayout = "stem_norm"
    preact_stride: PreactStride = "3x3"
    norm: Norm = "batch"
    norm_groups: int = 32
    se_ratio: float = 0.0
    blur_pool: bool = False
    stochastic_depth: float = 0.0
    zero_init_residual: bool = False
    output_stride: int | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        self._check_fields()
        if len(self.blocks) != len(self.filters):
            raise ValueError(
                "Expected `blocks` and `filters` to have one entry per stage each. "
                f"Received: blocks={self.blocks}, filters={self.filters}"
            )
        self._check_unused_fields()
        self._check_groups()
        self._check_widths()
        self._check_strides()
        if len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise ValueError(
                "Expected `mean` and `std` with one entry per channel each, in pixel units (0 to "
                f"255), and `std` > 0. Received: mean={self.mean}, std={self.std}"
            )

    def _check_fields(self) -> None:
        """Check each field on its own, and store lists and NumPy numbers as immutable types."""
        for field, choices in CHOICES.items():
            check_choice(field, getattr(self, field), choices)
        checked: dict[str, Any] = {}
        for field in ("blocks", "filters", "mean", "std"):
            check = check_integer if field in ("blocks", "filters") else _finite_number
            value = getattr(self, field)
            if not isinstance(value, (tuple, list)) or not value:
                raise ValueError(
                    f"Expected `{field}` to be a tuple of at least one number. Received: {value!r}"
                )
            checked[field] = tuple(check(field, item) for item in value)
        integers = ("groups", "width_per_group", "norm_groups", "stem_filters", "output_stride")
        store_integers(self, integers)
        for field in ("width", "se_ratio", "stochastic_depth"):
            checked[field] = number = _finite_number(field, getattr(self, field))
            if not (number > 0 if field == "width" else 0 <= number < 1):
                bounds = "more than 0" if field == "width" else "0 or more and less than 1"
                raise ValueError(f"Expected `{field}` to be {bounds}. Received: {field}={number}")
        for field in ("blur_pool", "zero_init_residual"):
            check_choice(field, getattr(self, field), (False, True))
            checked[field] = bool(getattr(self, field))
        for field, value in checked.items():
            object.__setattr__(self, field, value)

    def _check_unused_fields(self) -> None:
        """Raise ValueError if a field has no effect in this network, or prevents training it."""
        if self.block == "basic":
            why = "only bottlenecks have 1x1 and grouped convolutions"
            self._check_unused("block", why, "groups", "width_per_group", "preact_stride")
        if self.version != "v2":
            why = "only v2 has pre-activation"
            self._check_unused("version", why, "preact_layout", "preact_stride")
        if len(self.blocks) == 1 and self.stem == "cifar":
            self._check_unused("stem", "a single stage has no strides then", "blur_pool")
        if len(self.blocks) == 1:
            self._check_unused("blocks", "a single stage has no strides", "downsample")
        if self.norm == "batch":
            self._check_unused("norm", "it has no groups", "norm_groups")
        if self.shortcut in ("A", None):
            self._check_unused("shortcut", "it has no projections", "downsample")
        if self.shortcut is None:
            why = "a block of a plain network whose output is zero lets nothing pass"
            self._check_unused("shortcut", why, "stochastic_depth", "zero_init_residual")

    def _check_unused(self, field: str, why: str, *unused: str) -> None:
        """Raise ValueError if a field of `unused` is not at its default, in spite of `field`."""
        for name in unused:
            value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
            if value != default:
                raise ValueError(
                    f"Expected `{name}={default!r}` with `{field}={getattr(self, field)!r}`: "
                    f"{why}. Received: {name}={value!r}"
                )

    def _check_groups(self) -> None:
        if self.block == "bottleneck" and any(w * self.width_per_group % 64 for w in self.widths):
            raise ValueError(
                "Expected stages whose widths times `width_per_group` are multiples of 64, so that "
                f"`groups` have whole widths. Received: groups={self.groups}, "
                f"width_per_group={self.width_per_group}, widths={self.widths}"
            )
        if self.norm == "group":
            widths = {*self.stem_widths, *self.widths, *self.inner_widths, *self.output_widths}
            if indivisible := sorted(width for width in widths if width % self.norm_groups):
                raise ValueError(
                    "Expected `norm_groups` to divide the channels of every layer. "
                    f"Received: norm_groups={self.norm_groups}, channels={indivisible}"
                )

    def _check_widths(self) -> None:
        if self.stem == "C" and self.stem_widths[-1] % 2:
            raise ValueError(
                "Expected an even `stem_filters` with `stem='C'`, whose first convolutions are "
                f"half as wide. Received: {self.stem_widths[-1]}"
            )
        outputs = (self.stem_widths[-1], *self.output_widths)
        narrowing = any(after < before for before, after in itertools.pairwise(outputs))
        if self.shortcut == "A" and narrowing:
            raise ValueError(
                "Expected widths that never shrink with `shortcut='A'`, which can only add zero "
                f"channels. Received: filters={self.filters}, stem_filters={self.stem_filters}"
            )

    def _check_strides(self) -> None:
        if self.preact_layout == "unit_norm_stride_last" and min(self.blocks[:-1], default=2) < 2:
            raise ValueError(
                "Expected at least 2 blocks in every stage but the last with "
                "`preact_layout='unit_norm_stride_last'`, whose last block of a stage has the "
                f"stride. Received: blocks={self.blocks}"
            )
        strides = [self.stem_strides * 2**halvings for halvings in range(len(self.blocks))]
        if self.output_stride not in (None, *strides):
            raise ValueError(
                f"Expected `output_stride` to be None or one of {strides} for a network of "
                f"{len(self.blocks)} stages with `stem={self.stem!r}`. "
                f"Received: output_stride={self.output_stride}"
            )

    def replace(self, **changes: Any) -> ResNetConfig:
        """Return a copy with some fields replaced.

        Raises:
            ValueError: a field is unknown, or no network can be built from the fields.
        """
        if unknown := sorted(set(changes) - set(FIELDS)):
            hint = did_you_mean(unknown[0], FIELDS, f"There are {', '.join(FIELDS)}")
            raise ValueError(
                f"Expected fields of `ResNetConfig`. Received: {', '.join(unknown)}{hint}"
            )
        return dataclasses.replace(self, **changes)

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each stage: `filters` times `width`."""
        return tuple(self._scaled(filters) for filters in self.filters)

    @property
    def stem_widths(self) -> tuple[int, ...]:
        """Output channels of each convolution of the stem."""
        last = self._scaled(self.stem_filters or self.filters[0])
        return (last // 2, last // 2, last) if self.stem == "C" else (last,)

    @property
    def inner_widths(self) -> tuple[int, ...]:
        """Channels of the 3x3 convolutions of each stage."""
        if self.block == "basic":
            return self.widths
        return tuple(width * self.width_per_group // 64 * self.groups for width in self.widths)

    @property
    def output_widths(self) -> tuple[int, ...]:
        """Output channels of each stage."""
        return tuple(width * EXPANSION[self.block] for width in self.widths)

    def _scaled(self, filters: int) -> int:
        return filters if self.width == 1 else multiple_of_8(filters * self.width)

    @property
    def stem_strides(self) -> int:
        """Input pixels per position of the stem's output, max pooling included."""
        return 1 if self.stem == "cifar" else 4

    @property
    def depth(self) -> int:
        """Number of weighted layers as the paper counts them: stem, main path, classifier."""
        per_block = 2 if self.block == "basic" else 3
        return len(self.stem_widths) + sum(self.blocks) * per_block + 1

    @property
    def default_size(self) -> int:
        """Height and width of images in the data set of this stem: 224, or 32 with `"cifar"`."""
        return 32 if self.stem == "cifar" else 224

    @property
    def default_classes(self) -> int:
        """Number of classes in the data set of this stem: 1000, or 10 with `"cifar"`."""
        return 10 if self.stem == "cifar" else 1000


#: Names of the fields of `ResNetConfig`.
FIELDS = tuple(field.name for field in dataclasses.fields(ResNetConfig))

#: Values of the fields that are words.
CHOICES: dict[str, tuple[str | None, ...]] = {
    "block": get_args(Block),
    "version": get_args(Version),
    "shortcut": (*get_args(Shortcut), None),
    "stem": get_args(Stem),
    "downsample": get_args(Downsample),
    "preact_layout": get_args(PreactLayout),
    "preact_stride": get_args(PreactStride),
    "norm": get_args(Norm),
}


def multiple_of_8(channels: float) -> int:
    """Round to the nearest multiple of 8 that is at least 8."""
    return max(8, int(channels + 4) // 8 * 8)


def _finite_number(field: str, value: Any) -> float:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise ValueError(f"Expected `{field}` to be made of finite numbers. Received: {value!r}")
    return float(value)
