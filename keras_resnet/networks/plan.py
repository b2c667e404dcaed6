"""The plan of a network: every convolution with its name, width and stride, as plain data.

`plan(config)` is the only place that interprets a config. The builder turns a plan into Keras
layers, `complexity` counts it, `keras-resnet info` prints it, and weights are mapped by it.

Layer names follow `keras.applications.ResNet50` and `ResNet50V2` (`conv2_block1_1_conv`, …). They
are part of the weight format.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from keras_resnet.networks.config import ResNetConfig, multiple_of_8

ShortcutKind = Literal["identity", "projection", "zero_padded"]
Preactivation = Literal["own", "before"]


@dataclass(frozen=True)
class Norm:
    """A normalization layer.

    Attributes:
        prefix: the layer's name without its ending.
        filters: number of channels.
        groups: number of groups of a group normalization; `None` for batch normalization.
        zero_init: whether the scale is initialized to zero.
    """

    prefix: str
    filters: int
    groups: int | None = None
    zero_init: bool = False

    @property
    def name(self) -> str:
        """Name of the layer, such as `conv2_block1_1_bn`; `…_gn` for group normalization."""
        return f"{self.prefix}_{'bn' if self.groups is None else 'gn'}"


@dataclass(frozen=True)
class Conv:
    """A convolution and the normalization after it.

    Attributes:
        name: prefix of the layers' names: `conv2_block1_1` for `conv2_block1_1_conv`, `…_bn`.
        kernel_size: height and width of the kernel.
        input_filters: number of input channels.
        filters: number of output channels.
        norm: the normalization of the output; `None` if there is none.
        strides: stride along both axes. The output size is the input size divided by it, rounded
            up.
        groups: cardinality.
        dilation: distance between neighboring pixels under the kernel.
        bias: whether there is a bias; before a normalization it would be redundant.
        blur: whether blur pooling follows the activation and has the stride in the convolution's
            place. It stays where dilation replaces the stride.
        zero_init: whether the kernel is initialized to zero.
    """

    name: str
    kernel_size: int
    input_filters: int
    filters: int
    norm: Norm | None
    strides: int = 1
    groups: int = 1
    dilation: int = 1
    bias: bool = False
    blur: bool = False
    zero_init: bool = False

    @property
    def kernel_strides(self) -> int:
        """Stride of the convolution layer."""
        return 1 if self.blur else self.strides

    @property
    def weights(self) -> int:
        """Number of weights of the kernel."""
        return self.kernel_size**2 * self.input_filters // self.groups * self.filters


@dataclass(frozen=True)
class Gate:
    """A gate that scales the channels of the residual, as in squeeze-and-excitation.

    Attributes:
        words: short description for tables and figures.
        name: prefix of the layers' names, such as `conv2_block1_se`.
        convs: the 1x1 convolutions, with biases, that compute the scale from the average over all
            positions. Their names are the names of their layers.
    """

    words: str
    name: str
    convs: tuple[Conv, ...]


@dataclass(frozen=True)
class BlockPlan:
    """A residual block: its main path and, unless the network is plain, its shortcut.

    Attributes:
        name: prefix of the layers' names, such as `conv2_block1`.
        convs: convolutions of the main path, first to last.
        shortcut: kind of the shortcut; `None` in a plain network.
        projection: 1x1 convolution of a projection shortcut, else `None`.
        average_strides: stride of the 2x2 average pooling before the projection; `None` without
            pooling.
        preactivation: `None` in a post-activation block; `"own"` if the block starts with
            normalization and ReLU, `"before"` if the stem has ended with them.
        preactivation_norm: normalization of the block's own pre-activation, else `None`.
        gate: gate of the residual; `None` without one.
        drop_rate: probability of skipping the main path in training.
    """

    name: str
    convs: tuple[Conv, ...]
    shortcut: ShortcutKind | None
    projection: Conv | None = None
    average_strides: int | None = None
    preactivation: Preactivation | None = None
    preactivation_norm: Norm | None = None
    gate: Gate | None = None
    drop_rate: float = 0.0

    @property
    def input_filters(self) -> int:
        return self.convs[0].input_filters

    @property
    def filters(self) -> int:
        return self.convs[-1].filters

    @property
    def strides(self) -> int:
        return math.prod(conv.strides for conv in self.convs)


@dataclass(frozen=True)
class StagePlan:
    """The residual blocks that share one width.

    Attributes:
        name: `conv2`, `conv3`, …; the paper writes conv2_x.
        blocks: residual blocks, first to last.
    """

    name: str
    blocks: tuple[BlockPlan, ...]

    @property
    def filters(self) -> int:
        return self.blocks[-1].filters


@dataclass(frozen=True)
class NetworkPlan:
    """A network from the stem to the last stage, without the head.

    Attributes:
        stem: convolutions of the stem.
        pool: padding of the 3x3/2 max pooling after the stem: `"zeros"`, or `"edges"` if windows
            end at the edges of the image; `None` without pooling.
        pool_blur: whether blur pooling has the stride in the max pooling's place.
        stages: conv2_x and so on.
        final_norm: normalization after the last stage of a pre-activation network, with a ReLU
            after it; else `None`.
    """

    stem: tuple[Conv, ...]
    pool: Literal["zeros", "edges"] | None
    pool_blur: bool
    stages: tuple[StagePlan, ...]
    final_norm: Norm | None

    @property
    def blocks(self) -> Iterator[BlockPlan]:
        for stage in self.stages:
            yield from stage.blocks

    @property
    def strides(self) -> int:
        """Input pixels per position of the last stage, per axis."""
        convs = (*self.stem, *(conv for block in self.blocks for conv in block.convs))
        return math.prod(conv.strides for conv in convs) * (2 if self.pool else 1)


def plan(config: ResNetConfig, channels: int = 3) -> NetworkPlan:
    """Plan the network that `config` describes, for images of `channels` channels."""
    return _Planner(config).network(channels)


class _Planner:
    """Planner of one network, block by block.

    Attributes:
        config: the network.
        reduced: input pixels per position after the blocks planned so far.
        dilation: dilation of the next block.
        planned: number of blocks planned so far.
    """

    def __init__(self, config: ResNetConfig) -> None:
        self.config = config
        self.reduced = config.stem_strides
        self.dilation = 1
        self.planned = 0

    def network(self, channels: int) -> NetworkPlan:
        config = self.config
        stem = self.stem(channels)
        stages: list[StagePlan] = []
        filters = stem[-1].filters
        for index in range(len(config.blocks)):
            stages.append(self.stage(index, filters))
            filters = stages[-1].filters
        pool: Literal["zeros", "edges"] | None = None
        if config.stem != "cifar":
            pool = "edges" if config.preact_layout == "unit_norm" else "zeros"
        final_norm = self.norm("post", filters) if config.version == "v2" else None
        pool_blur = config.blur_pool and pool is not None
        return NetworkPlan(stem, pool, pool_blur, tuple(stages), final_norm)

    def stem(self, channels: int) -> tuple[Conv, ...]:
        config, convs = self.config, []
        kernel = 7 if config.stem == "imagenet" else 3
        for number, width in enumerate(config.stem_widths, start=1):
            last = number == len(config.stem_widths)
            name = "conv1" if number == 1 and last else f"conv1_{number}"
            # The stem has no normalization if the first block has its own pre-activation.
            normalized = config.preact_layout == "stem_norm" or not last
            norm = self.norm(name, width) if normalized else None
            strides = 2 if number == 1 and config.stem != "cifar" else 1
            bias = self.stride_last and not normalized
            convs.append(Conv(name, kernel, channels, width, norm, strides, bias=bias))
            channels = width
        return tuple(convs)

    @property
    def stride_last(self) -> bool:
        """True for TF-Slim's layout: the last block of a stage has the stride, and biases exist."""
        return self.config.preact_layout == "unit_norm_stride_last"

    def norm(self, prefix: str, filters: int, zero_init: bool = False) -> Norm:
        groups = self.config.norm_groups if self.config.norm == "group" else None
        return Norm(prefix, filters, groups, zero_init)

    def stage(self, index: int, input_filters: int) -> StagePlan:
        """Plan a stage. The first block of every stage but the first one has stride 2.

        In TF-Slim's layout it is the last block of every stage but the last one.
        """
        name, count, blocks = f"conv{index + 2}", self.config.blocks[index], []
        if self.stride_last:
            strided = count if index < len(self.config.blocks) - 1 else None
        else:
            strided = 1 if index > 0 else None
        for number in range(1, count + 1):
            strides = 2 if number == strided else 1
            blocks.append(self.block(f"{name}_block{number}", index, input_filters, strides))
            input_filters = blocks[-1].filters
        return StagePlan(name, tuple(blocks))

    def block(self, name: str, index: int, input_filters: int, wanted_strides: int) -> BlockPlan:
        config = self.config
        strides, before = wanted_strides, self.dilation
        if self.reduced * strides > (config.output_stride or math.inf):
            # Kernels after the removed stride are dilated, so that they see the same pixels.
            self.dilation, strides = self.dilation * strides, 1
        self.reduced *= strides
        filters = config.output_widths[index]
        self.planned += 1
        kind = self.shortcut(input_filters != filters, wanted_strides)
        average = config.downsample == "average" and wanted_strides > 1
        norm = self.norm(f"{name}_0", filters) if config.version != "v2" else None
        strided = 1 if average else strides
        bias = self.stride_last
        projection = Conv(f"{name}_0", 1, input_filters, filters, norm, strided, bias=bias)
        first = config.preact_layout == "stem_norm" and self.planned == 1
        own = config.version == "v2" and not first
        return BlockPlan(
            name,
            self.main_path(name, index, input_filters, (wanted_strides, strides), before),
            kind,
            projection=projection if kind == "projection" else None,
            average_strides=strides if average and kind == "projection" else None,
            preactivation=None if config.version != "v2" else "own" if own else "before",
            preactivation_norm=self.norm(f"{name}_preact", input_filters) if own else None,
            gate=self.gate(name, filters),
            # Huang et al. 2016, section 3: the rate grows linearly.
            drop_rate=config.stochastic_depth * self.planned / sum(config.blocks),
        )

    def gate(self, block: str, filters: int) -> Gate | None:
        if not self.config.se_ratio:
            return None
        name, narrow = f"{block}_se", multiple_of_8(filters * self.config.se_ratio)
        convs = (
            Conv(f"{name}_reduce", 1, filters, narrow, None, bias=True),
            Conv(f"{name}_expand", 1, narrow, filters, None, bias=True),
        )
        return Gate(f"squeeze-and-excitation, {narrow}", name, convs)

    def shortcut(self, width_changes: bool, strides: int) -> ShortcutKind | None:
        config = self.config
        # TF-Slim's strided blocks keep the width, and subsample their shortcut.
        changes = width_changes or (strides > 1 and not self.stride_last)
        if config.shortcut == "C" or (config.shortcut == "B" and changes):
            return "projection"
        if config.shortcut is None:
            return None
        return "zero_padded" if width_changes else "identity"

    def main_path(
        self, name: str, index: int, input_filters: int, strides: tuple[int, int], dilation: int
    ) -> tuple[Conv, ...]:
        """Plan the convolutions of a block's main path.

        Args:
            name: prefix of the layers' names.
            index: index of the stage.
            input_filters: number of input channels.
            strides: stride of the block without and with `output_stride`.
            dilation: dilation up to the strided convolution; `self.dilation` holds after it.
        """
        config = self.config
        wanted_strides, kept_strides = strides
        filters, inner = config.output_widths[index], config.inner_widths[index]
        if config.block == "basic":
            layers, strided = [(3, inner), (3, filters)], 0
        else:
            layers = [(1, inner), (3, inner), (1, filters)]
            on_1x1 = config.version == "v1" or config.preact_stride == "1x1"
            strided = 0 if on_1x1 else 1
        convs = []
        for number, (kernel, width) in enumerate(layers):
            prefix, last = f"{name}_{number + 1}", number == len(layers) - 1
            zero = config.zero_init_residual and last
            normalized = config.version != "v2" or not last
            conv = Conv(
                prefix,
                kernel,
                input_filters,
                width,
                self.norm(prefix, width, zero) if normalized else None,
                strides=kept_strides if number == strided else 1,
                groups=config.groups if kernel == 3 else 1,
                dilation=1 if kernel == 1 else dilation if number <= strided else self.dilation,
                bias=self.stride_last and not normalized,
                blur=config.blur_pool and number == strided and wanted_strides > 1,
                zero_init=zero and not normalized,
            )
            convs.append(conv)
            input_filters = width
        return tuple(convs)
