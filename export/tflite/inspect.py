"""Inspection of TFLite files: operators, float computations, types of inputs and outputs.

Every function of a path raises ValueError if the file is not a TFLite model.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_resnet.export.metadata import entry_of_tflite
from keras_resnet.export.tflite.flatbuffer import constant, operator_name, producers, read
from keras_resnet.export.tflite.private import TensorType

#: Operators that only convert from and to integers.
_CASTS = ("QUANTIZE", "DEQUANTIZE")

_FLOATS = {TensorType.FLOAT32, TensorType.FLOAT16}
_INTEGERS = {TensorType.INT8, TensorType.INT16, TensorType.UINT8}

#: Names of types, as in NumPy, by their numbers in the file format.
_TYPE_NAMES = {number: name.lower() for name, number in vars(TensorType).items() if name.isupper()}

PathLike = str | os.PathLike[str]


class FloatOperator(NamedTuple):
    """Operator that computes in float.

    Attributes:
        operator: name of the operator, such as `CONV_2D`.
        layers: Keras layers that it computes; in a file of another package, the name of its output.
    """

    operator: str
    layers: tuple[str, ...]


def operators(path: PathLike) -> dict[str, int]:
    """Count the operators of a file by name, the most frequent first."""
    model = read(path)
    counts = Counter(operator_name(model, x) for graph in model.subgraphs for x in graph.operators)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def float_layers(path: PathLike) -> tuple[str, ...]:
    """Return the names of the Keras layers that a file computes in float, in network order.

    Layers with integer weights and float activations (dynamic range) are left out, as runtimes
    compute them in integers.
    """
    found = (layer for operator in float_operators(path) for layer in operator.layers)
    return tuple(dict.fromkeys(found))


def float_operators(path: PathLike) -> tuple[FloatOperator, ...]:
    """Return the operators that a file computes in float, in their order."""
    model = read(path)
    tensors, found = model.subgraphs[0].tensors, []
    for operator in model.subgraphs[0].operators:
        name = operator_name(model, operator)
        types = [tensors[index].type for index in operator.inputs if index >= 0]
        in_float = tensors[operator.outputs[0]].type in _FLOATS
        if name not in _CASTS and in_float and not _INTEGERS & set(types):
            found.append(FloatOperator(name, _layers(model, operator)))
    return tuple(found)


def _layers(model: Any, operator: Any) -> tuple[str, ...]:
    """Return the layers that an operator's output is named after."""
    name = model.subgraphs[0].tensors[operator.outputs[0]].name.decode()
    text = re.sub(r":\d+$", "", name)
    layers_of_outputs = entry_of_tflite(model).get("layers") or {}
    return tuple((layers_of_outputs.get(text) or text).split(";"))


class KernelFacts(NamedTuple):
    """Facts about the weights of an operator.

    Attributes:
        layers: Keras layers that it computes; in a file of another package, the name of its output.
        weights: number of weights.
        zeros: number of weights that are 0.
        distinct: number of distinct weights; for float weights, the largest number in an output
            channel.
    """

    layers: tuple[str, ...]
    weights: int
    zeros: int
    distinct: int


def kernels(path: PathLike) -> tuple[KernelFacts, ...]:
    """Return facts about the weights of all convolutions and dense layers, in the file's order."""
    model = read(path)
    found = []
    for operator in model.subgraphs[0].operators:
        if operator_name(model, operator) in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            values = constant(model, kernel_index(model, operator))
            if values is not None:
                layers, zeros = _layers(model, operator), int((values == 0).sum())
                found.append(KernelFacts(layers, values.size, zeros, distinct_values(values)))
    return tuple(found)


def dense_input(path: PathLike) -> int:
    """Return the index of the input tensor of a file's last dense layer.

    Raises:
        ValueError: there is no dense layer.
    """
    model = read(path)
    operators = model.subgraphs[0].operators
    dense = [x for x in operators if operator_name(model, x) == "FULLY_CONNECTED"]
    if not dense:
        raise ValueError("it has no dense layer (FULLY_CONNECTED) to take the features before")
    return int(dense[-1].inputs[0])


def kernel_index(model: Any, operator: Any) -> int:
    """Return the index of the tensor with an operator's weights, before any cast from float16."""
    index = int(operator.inputs[1])
    before = producers(model).get(index)
    is_cast = before is not None and operator_name(model, before) == "DEQUANTIZE"
    return int(before.inputs[0]) if before is not None and is_cast else index


def distinct_values(kernel: np.ndarray) -> int:
    """Return the number of distinct weights; for floats, the largest in an output channel."""
    parts = [kernel] if kernel.dtype == np.int8 else kernel
    return max(len(np.unique(part)) for part in parts)


def describe(path: PathLike) -> dict[str, Any]:
    """Return the description of a file as plain data for JSON.

    Returns:
        Dictionary with the known fields of `ModelInfo`, such as class names and protocol, and:

        - `pixels`: range and layout of the input, and the normalization that the graph does itself:
          mean and standard deviation per channel in pixel units, or scale and offset.
        - `signature`: key of the signature; None if there is none.
        - `inputs` and `outputs`: lists of `name`, `shape` (None for sides of any length), `dtype`,
          `scale` and `zero_point` (None for float tensors).
    """
    model = read(path)
    graph = model.subgraphs[0]
    known: dict[str, Any] = entry_of_tflite(model)
    known.pop("layers", None)
    signature = model.signatureDefs[0] if model.signatureDefs else None
    known["signature"] = None if signature is None else signature.signatureKey.decode()
    for which in ("inputs", "outputs"):
        if signature is None:
            ends = [(graph.tensors[index].name, index) for index in getattr(graph, which)]
        else:
            ends = [(end.name, end.tensorIndex) for end in getattr(signature, which)]
        known[which] = [_end(name.decode(), graph.tensors[index]) for name, index in ends]
    return known


def _end(name: str, tensor: Any) -> dict[str, Any]:
    shape = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
    quantization = tensor.quantization
    known = quantization is not None and quantization.scale is not None
    return {
        "name": name,
        "shape": [None if side < 0 else int(side) for side in shape],
        "dtype": _TYPE_NAMES[tensor.type],
        "scale": float(quantization.scale[0]) if known else None,
        "zero_point": int(quantization.zeroPoint[0]) if known else None,
    }


def quantize_input(batch: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    """Convert pixels to the type of an artifact's input.

    Args:
        batch: pixels `(n, height, width, channels)`, uint8 or float.
        details: details of the input from `get_input_details()` of an interpreter or of its
            signature runner.

    Returns:
        Array of the same shape; for an integer type, rounded to the steps of the scale and clipped
        to the range of the type.
    """
    dtype, (scale, zero_point) = np.dtype(details["dtype"]), _parameters(details)
    if scale is None or not np.issubdtype(dtype, np.integer):
        return batch.astype(dtype)
    steps = np.round(np.asarray(batch, np.float32) / scale) + zero_point
    limits = np.iinfo(dtype)
    return np.clip(steps, limits.min, limits.max).astype(dtype)


def dequantize_output(values: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    """Convert an output of an artifact to float32.

    Args:
        values: the output, of any shape.
        details: details of the output, as for `quantize_input`.
    """
    scale, zero_point = _parameters(details)
    if scale is None or not np.issubdtype(values.dtype, np.integer):
        return values.astype(np.float32)
    return ((values.astype(np.float32) - zero_point) * scale).astype(np.float32)


def _parameters(details: Mapping[str, Any]) -> tuple[np.float32 | None, int]:
    """Return the scale, None if the tensor is not quantized, and the zero point."""
    parameters = details["quantization_parameters"]
    if not len(parameters["scales"]):
        return None, 0
    return np.float32(parameters["scales"][0]), int(parameters["zero_points"][0])
