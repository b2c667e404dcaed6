"""Helpers to read and change the graphs of ONNX models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_resnet.export.tracing import leaf_layers
from keras_resnet.support.extras import require

onnx = require("onnx")

#: Operators with a kernel, which is their second input.
KERNEL_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")

ELEMENTWISE = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}


def layer_of(name: str) -> str:
    """Return the name of the Keras layer that a node or tensor of this package belongs to."""
    return name.partition("/")[0]


def group_norms(model: keras.Model) -> set[str]:
    """Return the names of the layers that normalize each image by its own statistics."""
    kinds = (keras.layers.GroupNormalization, keras.layers.LayerNormalization)
    return {layer.name for layer in leaf_layers(model) if isinstance(layer, kinds)}


def constants_of(proto: Any) -> dict[str, Any]:
    """Return the `TensorProto` of every constant, by name."""
    return {value.name: value for value in proto.graph.initializer}


def replace_input(nodes: Iterable[Any], old: str, new: str) -> None:
    """Replace the input `old` by `new` in all nodes."""
    for node in nodes:
        node.input[:] = [new if name == old else name for name in node.input]


def inferred(proto: Any) -> Any:
    """Return the model with inferred shapes of all tensors.

    The shapes that converters write are removed: they have other names for the batch dimension.
    """
    del proto.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
