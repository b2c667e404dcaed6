"""The plan of a network: every convolution with its name, width and stride, as plain data.

`plan(config)` is the one place that decides what a config means. The builder turns a plan into
Keras layers, the complexity counter adds it up, `keras-resnet info` prints it; none of them decides
a stride or a name of its own.

Layer names follow `keras.applications.ResNet50` (`conv2_block1_1_conv`, …): they are part of the
weight format.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from keras_resnet.config import EXPANSION, ResNetConfig

ShortcutKind = Literal["identity", "projection", "zero_padded"]


@dataclass(frozen=True)
class Conv:
    """A convolution without bias that is followed by BN.

    Attributes:
        name: prefix of its layers' names: `conv2_block1_1` for `conv2_block1_1_conv`, `…_bn`.
        kernel_size: height and width of the kernel.
        input_filters: channels that it takes.
        filters: channels that it puts out.
        strides: in both axes. The padding is symmetric: sizes are divided by it and rounded up.
        groups: cardinality.
    """

    name: str
    kernel_size: int
    input_filters: int
    filters: int
    strides: int = 1
    groups: int = 1

    @property
    def weights(self) -> int:
        """Number of weights of the kernel."""
        return self.kernel_size**2 * self.input_filters // self.groups * self.filters


@dataclass(frozen=True)
class BlockPlan:
    """A residual block: its main path and, unless the network is plain, its shortcut.

    Attributes:
        name: prefix of its layers' names, such as `conv2_block1`.
        convs: the convolutions of the main path, first to last.
        shortcut: what the input goes through before it is added; `None` in a plain network.
    """

    name: str
    convs: tuple[Conv, ...]
    shortcut: ShortcutKind | None

    @property
    def input_filters(self) -> int:
        return self.convs[0].input_filters

    @property
    def filters(self) -> int:
        return self.convs[-1].filters

    @property
    def strides(self) -> int:
        return math.prod(conv.strides for conv in self.convs)

    @property
    def projection(self) -> Conv | None:
        """The 1x1 convolution on the shortcut, if the shortcut is a projection."""
        if self.shortcut != "projection":
            return None
        return Conv(f"{self.name}_0", 1, self.input_filters, self.filters, self.strides)


@dataclass(frozen=True)
class StagePlan:
    """The residual blocks that share one resolution.

    Attributes:
        name: `conv2`, `conv3`, …; the paper writes conv2_x.
        blocks: its residual blocks, first to last.
    """

    name: str
    blocks: tuple[BlockPlan, ...]

    @property
    def filters(self) -> int:
        return self.blocks[-1].filters


@dataclass(frozen=True)
class NetworkPlan:
    """A network from the stem to the last stage. The head depends on the builder's arguments.

    Attributes:
        stem: the first convolution.
        max_pool: whether 3x3/2 max pooling follows it.
        stages: conv2_x and so on.
    """

    stem: Conv
    max_pool: bool
    stages: tuple[StagePlan, ...]

    @property
    def blocks(self) -> Iterator[BlockPlan]:
        for stage in self.stages:
            yield from stage.blocks

    @property
    def strides(self) -> int:
        """How many input pixels one position of the last stage stands for, per axis."""
        pool = 2 if self.max_pool else 1
        return self.stem.strides * pool * math.prod(block.strides for block in self.blocks)


def plan(config: ResNetConfig, channels: int = 3) -> NetworkPlan:
    """Lays out the network that `config` describes for images of `channels` channels."""
    imagenet = config.stem == "imagenet"
    stem = Conv(
        "conv1", 7 if imagenet else 3, channels, config.filters[0], strides=2 if imagenet else 1
    )
    stages = []
    input_filters = stem.filters
    for index, (count, width) in enumerate(zip(config.blocks, config.filters, strict=True)):
        blocks = []
        for number in range(1, count + 1):
            # Every stage but the first halves the resolution, in its first block.
            strides = 2 if index > 0 and number == 1 else 1
            blocks.append(
                _block(config, f"conv{index + 2}_block{number}", input_filters, width, strides)
            )
            input_filters = blocks[-1].filters
        stages.append(StagePlan(f"conv{index + 2}", tuple(blocks)))
    return NetworkPlan(stem, imagenet, tuple(stages))


def _block(
    config: ResNetConfig, name: str, input_filters: int, width: int, strides: int
) -> BlockPlan:
    filters = width * EXPANSION[config.block]
    convs: tuple[Conv, ...]
    if config.block == "basic":
        convs = (
            Conv(f"{name}_1", 3, input_filters, width, strides),
            Conv(f"{name}_2", 3, width, width),
        )
    else:
        inner = width * config.width_per_group // 64 * config.groups
        first, second = (strides, 1) if config.version == "v1" else (1, strides)
        convs = (
            Conv(f"{name}_1", 1, input_filters, inner, first),
            Conv(f"{name}_2", 3, inner, inner, second, config.groups),
            Conv(f"{name}_3", 1, inner, filters),
        )
    return BlockPlan(name, convs, _shortcut(config, input_filters != filters or strides != 1))


def _shortcut(config: ResNetConfig, shape_changes: bool) -> ShortcutKind | None:
    if config.shortcut is None:
        return None
    if config.shortcut == "C" or (config.shortcut == "B" and shape_changes):
        return "projection"
    return "zero_padded" if shape_changes else "identity"
