"""Complexity of a Keras model; see `complexity`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Set

import keras

from keras_resnet.analysis.complexity import Complexity
from keras_resnet.networks.arguments import check_shape
from keras_resnet.networks.graph import inputs_of


def complexity_of_model(model: keras.Model, input_shape: tuple[int, int, int] | None) -> Complexity:
    """Return the complexity of a model; arguments and errors are those of `complexity`."""
    if not getattr(model, "inputs", None):
        raise ValueError(f"Expected a functional model or a config. Received: {model!r}")
    flat = keras.Model(model.inputs, model.outputs)
    _check_layers(flat)
    if input_shape is not None:
        check_shape(input_shape)
        if input_shape[-1] != flat.input_shape[-1]:
            raise ValueError(
                f"Expected `input_shape` with the model's {flat.input_shape[-1]} channels. "
                f"Received: {input_shape}"
            )
        flat = keras.models.clone_model(flat, input_tensors=[keras.Input(input_shape)])
    if None in flat.input_shape[1:]:
        raise ValueError(
            "Expected `input_shape=(height, width, channels)` for a model whose input has no fixed "
            f"size. Received: input_shape={input_shape}, model.input_shape={model.input_shape}"
        )
    weighted = [layer for layer in flat.layers if isinstance(layer, _WEIGHTED)]
    outputs = {layer.name: math.prod(layer.output.shape[1:]) for layer in weighted}
    counted = [layer for layer in flat.layers if not isinstance(layer, keras.layers.Normalization)]
    weights = {
        weight.path: math.prod(weight.shape) for layer in counted for weight in layer.weights
    }
    statistics = sum(size for path, size in weights.items() if "/moving_" in path)
    return Complexity(
        params=sum(weights.values()) - statistics,
        bn_statistics=statistics,
        macs=sum(outputs[layer.name] * _macs_per_output(layer) for layer in weighted),
        activations=sum(outputs.values()),
        depth=_longest_path(flat, outputs.keys()),
    )


_WEIGHTED = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)

#: Layers whose operations are not counted, by convention: they only scale and shift.
_FREE = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.Normalization,
    keras.layers.PReLU,
)


def _check_layers(model: keras.Model) -> None:
    """Raise ValueError if the model has layers that would be counted incorrectly."""
    calls = Counter(
        layer["name"] for layer in model.get_config()["layers"] for _ in layer["inbound_nodes"]
    )
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            problem = f"one with the model {layer.name!r} inside"
        elif layer.weights and not isinstance(layer, (*_WEIGHTED, *_FREE)):
            problem = f"one with {layer.name!r}, a {type(layer).__name__}"
        elif layer.weights and calls[layer.name] > 1:
            problem = f"one that uses the weights of {layer.name!r} more than once"
        else:
            continue
        raise ValueError(
            "Expected a flat functional model of convolutions, dense and normalization layers. "
            f"Received: {problem}"
        )


def _macs_per_output(layer: keras.Layer) -> int:
    """Return the length of the dot product that computes one output."""
    shape = layer.kernel.shape
    # A depthwise kernel is (height, width, channels, multiplier); the others end with the outputs.
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    return math.prod(shape[:2] if depthwise else shape[:-1])


def _longest_path(model: keras.Model, weighted: Set[str]) -> int:
    """Return the largest number of weighted layers on a path from the input to an output.

    Squeeze-and-excitation layers do not count. They start with pooling that keeps the dimensions,
    and end at a multiplication.
    """
    kinds = {layer.name: layer for layer in model.layers}
    longest: dict[str, int] = {}
    gates: set[str] = set()
    graph = inputs_of(model)
    for name, inputs in graph.items():
        layer = kinds.get(name)
        if isinstance(layer, keras.layers.Multiply) and not gates.issuperset(inputs):
            inputs = [parent for parent in inputs if parent not in gates]
        elif getattr(layer, "keepdims", False) or (inputs and gates.issuperset(inputs)):
            gates.add(name)
        before = max((longest[parent] for parent in inputs), default=0)
        longest[name] = before + (name in weighted)
    inner = {parent for inputs in graph.values() for parent in inputs}
    return max(length for name, length in longest.items() if name not in inner)
