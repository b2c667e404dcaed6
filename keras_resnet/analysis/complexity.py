"""Complexity of a network, from its config or from a Keras model."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keras_resnet.networks.arguments import check_head, check_shape, check_size
from keras_resnet.networks.config import ResNetConfig
from keras_resnet.networks.plan import BlockPlan, Conv, NetworkPlan, Norm, plan

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Complexity:
    """Complexity of a network for one image.

    Attributes:
        params: number of trainable parameters of the convolutions, the normalization layers and the
            classifier.
        bn_statistics: number of moving means and variances, which are stored but not trained.
        macs: multiply-accumulate operations of the convolutions and the classifier. One is two
            floating-point operations; the paper calls multiply-adds FLOPs.
        activations: number of outputs of the convolutions and the classifier.
        depth: number of weighted layers on the longest path, without projections.
    """

    params: int
    bn_statistics: int
    macs: int
    activations: int
    depth: int


@dataclass(frozen=True)
class PartSummary:
    """The stem, pooling, a stage or the head of a network, as a row of Table 1 of He et al. 2015.

    Attributes:
        name: `conv1`, `pool1`, `conv2_x`, … or `head`.
        layers: description of the layers.
        output_shape: `(height, width, channels)` of the output, or `(classes,)`.
        complexity: complexity of these layers alone.
    """

    name: str
    layers: str
    output_shape: tuple[int, ...]
    complexity: Complexity


def complexity(
    model_or_config: keras.Model | ResNetConfig,
    input_shape: tuple[int, int, int] | None = None,
    classes: int | None = None,
) -> Complexity:
    """Return the complexity of a network for one image.

    Args:
        model_or_config: a config, from which no model is built, or a flat functional Keras model of
            2D convolutions, dense layers and normalization layers.
        input_shape: `(height, width, channels)`; by default that of the model, or of the config's
            data set.
        classes: number of classes, for a config only; by default that of its data set.

    Raises:
        ValueError: the input size is unknown or impossible, the model has layers that cannot be
            counted, or `classes` is given for a model.

    Examples:

    ```python
    complexity(get_config("resnet50")).macs
    ```
    """
    if isinstance(model_or_config, ResNetConfig):
        return total(summarize(model_or_config, input_shape, classes))
    if classes is not None:
        raise ValueError(
            "Expected `classes` only with a config, as a model has a fixed number. "
            f"Received: classes={classes}"
        )
    # Imported here, as Keras takes seconds to import and a config does not need it.
    from keras_resnet.analysis.model_complexity import complexity_of_model

    return complexity_of_model(model_or_config, input_shape)


def summarize(
    config: ResNetConfig,
    input_shape: tuple[int, int, int] | None = None,
    classes: int | None = None,
) -> list[PartSummary]:
    """Return the complexity of a config's network part by part; arguments as for `complexity`."""
    shape = input_shape or (config.default_size, config.default_size, 3)
    check_shape(shape)
    height, width, channels = shape
    if height is None or width is None:
        raise ValueError(f"Expected images of a fixed height and width. Received: {input_shape}")
    check_head(True, None, classes)
    classes = config.default_classes if classes is None else classes
    network = plan(config, channels)
    check_size(network, (height, width), warn=False)

    rows: list[PartSummary] = []
    costs = _Costs((height, width))

    def add_row(name: str, layers: str, filters: int, depth: int) -> None:
        rows.append(PartSummary(name, layers, (*costs.size, filters), costs.take(depth)))

    for conv in network.stem:
        costs.conv(conv)
    words = " · ".join(_words(conv) for conv in network.stem)
    filters = network.stem[-1].filters
    add_row("conv1", f"{words}, stride {network.stem[0].strides}", filters, len(network.stem))
    if network.pool is not None:
        costs.size = _strided(costs.size, 2)
        add_row("pool1", "3x3 max pool, stride 2" + ", blurred" * network.pool_blur, filters, 0)
    for stage in network.stages:
        for block in stage.blocks:
            costs.block(block)
        runs = [
            f"[{words}] × {len(list(run))}"
            for words, run in itertools.groupby(map(_block_words, stage.blocks))
        ]
        depth = sum(len(block.convs) for block in stage.blocks)
        add_row(f"{stage.name}_x", " + ".join(runs), stage.filters, depth)
    if network.final_norm is not None:
        costs.norm(network.final_norm)
    weights = network.stages[-1].filters * classes
    costs.add(weights + classes, weights, classes)
    words = f"average pool, {classes}-way dense"
    return [*rows, PartSummary("head", words, (classes,), costs.take(1))]


def total(rows: Iterable[PartSummary]) -> Complexity:
    """Return the sum of the rows of `summarize`."""
    return _sum(row.complexity for row in rows)


def shortcut_counts(network: NetworkPlan) -> dict[str, int]:
    """Count a network's blocks by the kind of their shortcut."""
    kinds = [block.shortcut for block in network.blocks]
    return {kind: kinds.count(kind) for kind in ("identity", "projection", "zero_padded")}


def _strided(size: tuple[int, int], strides: int) -> tuple[int, int]:
    # Padding is always symmetric, so a stride of 2 rounds up.
    return -(-size[0] // strides), -(-size[1] // strides)


def _words(conv: Conv) -> str:
    groups = f" in {conv.groups} groups" if conv.groups > 1 else ""
    dilation = f" dilated by {conv.dilation}" if conv.dilation > 1 else ""
    return f"{conv.kernel_size}x{conv.kernel_size}, {conv.filters}{groups}{dilation}"


def _block_words(block: BlockPlan) -> str:
    words = [_words(conv) for conv in block.convs]
    if block.gate is not None:
        words.append(block.gate.words)
    return " · ".join(words)


class _Costs:
    """Sum of the complexity of layers, and the size of the feature maps after them."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self._parts: list[Complexity] = []

    def add(self, params: int, macs: int, activations: int, statistics: int = 0) -> None:
        self._parts.append(Complexity(params, statistics, macs, activations, 0))

    def norm(self, norm: Norm) -> None:
        self.add(2 * norm.filters, 0, 0, 2 * norm.filters if norm.groups is None else 0)

    def conv(self, conv: Conv) -> None:
        area = math.prod(_strided(self.size, conv.kernel_strides))
        self.size = _strided(self.size, conv.strides)
        biases = conv.filters if conv.bias else 0
        self.add(conv.weights + biases, conv.weights * area, conv.filters * area)
        if conv.norm is not None:
            self.norm(conv.norm)

    def block(self, block: BlockPlan) -> None:
        if block.preactivation_norm is not None:
            self.norm(block.preactivation_norm)
        if block.projection is not None:
            before = self.size
            self.size = _strided(self.size, block.average_strides or 1)
            self.conv(block.projection)
            self.size = before
        for conv in block.convs:
            self.conv(conv)
        for conv in block.gate.convs if block.gate else ():
            self.add(conv.weights + conv.filters, conv.weights, conv.filters)

    def take(self, depth: int) -> Complexity:
        """Return the sum since the last call."""
        parts, self._parts = self._parts, []
        return _sum([*parts, Complexity(0, 0, 0, 0, depth)])


def _sum(parts: Iterable[Complexity]) -> Complexity:
    return Complexity(*map(sum, zip(*map(dataclasses.astuple, parts), strict=True)))
