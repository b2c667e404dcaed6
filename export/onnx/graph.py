"""ONNX models: how their graphs are walked and changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_resnet.export.tracing import leaf_layers
from keras_resnet.support.extras import require

onnx = require("onnx")

#: Operators that multiply with a kernel; the kernel is their second input.
KERNEL_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")

ELEMENTWISE = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}


def layer_of(name: str) -> str:
    """The Keras layer that a node or a tensor of our graphs is named after."""
    return name.partition("/")[0]


def group_norms(model: keras.Model) -> set[str]:
    """Names of the layers that normalise by the statistics of the image at hand."""
    kinds = (keras.layers.GroupNormalization, keras.layers.LayerNormalization)
    return {layer.name for layer in leaf_layers(model) if isinstance(layer, kinds)}


def constants_of(proto: Any) -> dict[str, Any]:
    """The `TensorProto` of every constant, by name."""
    return {value.name: value for value in proto.graph.initializer}


def replace_input(nodes: Iterable[Any], old: str, new: str) -> None:
    """Lets every node take in the tensor `new` in the place of `old`."""
    for node in nodes:
        node.input[:] = [new if name == old else name for name in node.input]


def inferred(proto: Any) -> Any:
    """The model with the shapes of all tensors inferred anew.

    Those that converters write carry their own names for the batch dimension.
    """
    del proto.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
