"""What a network costs, from its config or from a Keras model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Any

import keras

from keras_resnet.config import ResNetConfig
from keras_resnet.plan import Conv, NetworkPlan, plan


@dataclass(frozen=True)
class Complexity:
    """What a network costs for one image.

    Attributes:
        params: trainable parameters: convolutions, BN scale and shift, classifier.
        bn_statistics: moving means and variances, which are stored but not trained.
        macs: multiply-accumulates of convolutions and classifier. One is two floating-point
            operations; the paper calls multiply-adds FLOPs.
        activations: numbers that convolutions and classifier put out.
        depth: weighted layers on the longest path: projections do not count.
    """

    params: int
    bn_statistics: int
    macs: int
    activations: int
    depth: int


@dataclass(frozen=True)
class PartSummary:
    """One row of the network's table: a stem, stage or head, as in Table 1 of He et al. 2015.

    Attributes:
        name: `conv1`, `conv2_x`, … or `head`.
        layers: what it is made of, in words.
        output_shape: `(height, width, channels)` after it, or `(classes,)`.
        complexity: its cost; `depth` counts its own weighted layers.
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
    """Counts what a network costs for one image.

    Args:
        model_or_config: a config (nothing is built) or any functional Keras model of convolutions,
            dense layers and BN.
        input_shape: `(height, width, channels)`; by default that of the model, or that of the
            config's data set.
        classes: width of the classifier, for a config only.

    Raises:
        ValueError: the model's input has no fixed size and `input_shape` is not given, or `classes`
            is given for a model.
    """
    if isinstance(model_or_config, ResNetConfig):
        return total(summarize(model_or_config, input_shape, classes))
    if classes is not None:
        raise ValueError(
            "Expected `classes` only with a config; a model has its own. "
            f"Received: classes={classes}"
        )
    return _of_model(model_or_config, input_shape)


def summarize(
    config: ResNetConfig,
    input_shape: tuple[int, int, int] | None = None,
    classes: int | None = None,
) -> list[PartSummary]:
    """The network's table, part by part, from the config alone. Arguments as for `complexity`."""
    height, width, channels = input_shape or (config.default_size, config.default_size, 3)
    classes = config.default_classes if classes is None else classes
    network = plan(config, channels)
    size = (height, width)

    rows, size = [], _strided(size, network.stem.strides)
    words = f"{_words(network.stem)}, stride {network.stem.strides}"
    rows.append(
        PartSummary(
            "conv1", words, (*size, network.stem.filters), _of_convs([(network.stem, size)], 1)
        )
    )
    if network.max_pool:
        size = _strided(size, 2)
        rows.append(
            PartSummary(
                "pool1", "3x3 max pool, stride 2", (*size, network.stem.filters), _of_convs([], 0)
            )
        )
    for stage in network.stages:
        placed, depth = [], 0
        for block in stage.blocks:
            before = size
            for conv in block.convs:
                size = _strided(size, conv.strides)
                placed.append((conv, size))
            if block.projection is not None:
                placed.append((block.projection, _strided(before, block.projection.strides)))
            depth += len(block.convs)
        words = (
            f"[{' · '.join(_words(conv) for conv in stage.blocks[0].convs)}] × {len(stage.blocks)}"
        )
        rows.append(
            PartSummary(f"{stage.name}_x", words, (*size, stage.filters), _of_convs(placed, depth))
        )
    features = network.stages[-1].filters
    head = Complexity(features * classes + classes, 0, features * classes, classes, 1)
    rows.append(PartSummary("head", f"average pool, {classes}-way dense", (classes,), head))
    return rows


def total(rows: list[PartSummary]) -> Complexity:
    """Adds up the rows of `summarize`."""
    return _sum(row.complexity for row in rows)


def shortcut_counts(network: NetworkPlan) -> dict[str, int]:
    """How many of a network's blocks have each kind of shortcut."""
    kinds = [block.shortcut for block in network.blocks]
    return {kind: kinds.count(kind) for kind in ("identity", "projection", "zero_padded")}


def _strided(size: tuple[int, int], strides: int) -> tuple[int, int]:
    # Padding is symmetric everywhere, so a stride of 2 rounds up.
    return -(-size[0] // strides), -(-size[1] // strides)


def _words(conv: Conv) -> str:
    groups = f" in {conv.groups} groups" if conv.groups > 1 else ""
    return f"{conv.kernel_size}x{conv.kernel_size}, {conv.filters}{groups}"


def _of_convs(placed: list[tuple[Conv, tuple[int, int]]], depth: int) -> Complexity:
    """Cost of convolutions with BN, each given with the size of its output."""
    return Complexity(
        params=sum(conv.weights + 2 * conv.filters for conv, _ in placed),
        bn_statistics=sum(2 * conv.filters for conv, _ in placed),
        macs=sum(conv.weights * math.prod(size) for conv, size in placed),
        activations=sum(conv.filters * math.prod(size) for conv, size in placed),
        depth=depth,
    )


def _sum(parts: Iterable[Complexity]) -> Complexity:
    return Complexity(*map(sum, zip(*map(dataclasses.astuple, parts), strict=True)))


def _of_model(model: keras.Model, input_shape: tuple[int, int, int] | None) -> Complexity:
    flat = keras.Model(model.inputs, model.outputs)
    nested = [layer.name for layer in flat.layers if isinstance(layer, keras.Model)]
    if nested:
        raise ValueError(
            f"Expected a flat functional model. Received: one with the model {nested[0]!r} inside"
        )
    if input_shape is not None:
        flat = keras.models.clone_model(flat, input_tensors=[keras.Input(input_shape)])
    if None in flat.input_shape[1:]:
        raise ValueError(
            "Expected `input_shape=(height, width, channels)` for a model whose input has no fixed "
            f"size. Received: input_shape={input_shape}, model.input_shape={model.input_shape}"
        )
    weighted = [layer for layer in flat.layers if isinstance(layer, _WEIGHTED)]
    outputs = {layer.name: math.prod(layer.output.shape[1:]) for layer in weighted}
    weights = {weight.path: math.prod(weight.shape) for weight in flat.weights}
    statistics = sum(size for path, size in weights.items() if "/moving_" in path)
    return Complexity(
        params=sum(weights.values()) - statistics,
        bn_statistics=statistics,
        macs=sum(outputs[layer.name] * _macs_per_output(layer) for layer in weighted),
        activations=sum(outputs.values()),
        depth=_longest_path(flat, outputs.keys()),
    )


_WEIGHTED = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)


def _macs_per_output(layer: keras.Layer) -> int:
    """Length of the dot product behind one output number."""
    shape = layer.kernel.shape
    # A depthwise kernel is (height, width, channels, multiplier); the others end with the outputs.
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    return math.prod(shape[:2] if depthwise else shape[:-1])


def _longest_path(model: keras.Model, weighted: Set[str]) -> int:
    """Weighted layers on the path from input to output that has most of them."""
    longest: dict[str, int] = {}
    # A functional model's config lists its layers in topological order, with where each one's
    # inputs come from.
    for layer in model.get_config()["layers"]:
        sources = [longest[name] for node in layer["inbound_nodes"] for name in _histories(node)]
        longest[layer["name"]] = max(sources, default=0) + (layer["name"] in weighted)
    return max(longest.values())


def _histories(value: Any) -> Iterator[str]:
    """Names of the layers whose outputs appear anywhere in a serialized call."""
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            yield value["config"]["keras_history"][0]
        else:
            for item in value.values():
                yield from _histories(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _histories(item)
