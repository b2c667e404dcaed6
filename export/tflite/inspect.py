"""Inspection of TFLite files: operators, float computations, types of inputs and outputs.

Every function of a path raises a `ValueError` if the file is no TFLite model.
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

#: From and to integers; they compute nothing.
_CASTS = ("QUANTIZE", "DEQUANTIZE")

_FLOATS = {TensorType.FLOAT32, TensorType.FLOAT16}
_INTEGERS = {TensorType.INT8, TensorType.INT16, TensorType.UINT8}

#: NumPy-like names of the numbers that the schema has for types.
_TYPE_NAMES = {number: name.lower() for name, number in vars(TensorType).items() if name.isupper()}

PathLike = str | os.PathLike[str]


class FloatOperator(NamedTuple):
    """An operator that computes in float, such as `CONV_2D`.

    Its layers are those of Keras that it computes; of a foreign file, the name of its output.
    """

    operator: str
    layers: tuple[str, ...]


def operators(path: PathLike) -> dict[str, int]:
    """Count the built-in operators of a file, the most frequent first."""
    model = read(path)
    counts = Counter(operator_name(model, x) for graph in model.subgraphs for x in graph.operators)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def float_layers(path: PathLike) -> tuple[str, ...]:
    """Names of the Keras layers that a file computes in float, in the order of the network.

    Where weights are integers but activations are not (dynamic range), the layers with such weights
    are not among them: runtimes compute them in integers.
    """
    found = (layer for operator in float_operators(path) for layer in operator.layers)
    return tuple(dict.fromkeys(found))


def float_operators(path: PathLike) -> tuple[FloatOperator, ...]:
    """The operators that a file computes in float, in their order."""
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
    """The layers that the output of an operator is named after."""
    name = model.subgraphs[0].tensors[operator.outputs[0]].name.decode()
    text = re.sub(r":\d+$", "", name)
    layers_of_outputs = entry_of_tflite(model).get("layers") or {}
    return tuple((layers_of_outputs.get(text) or text).split(";"))


class KernelFacts(NamedTuple):
    """The weights of an operator in a file.

    Attributes:
        layers: the Keras layers that it computes; of a foreign file, the name of its output.
        weights: how many there are.
        zeros: how many of them are 0.
        distinct: how many different ones there are; of floats, at most in an output channel.
    """

    layers: tuple[str, ...]
    weights: int
    zeros: int
    distinct: int


def kernels(path: PathLike) -> tuple[KernelFacts, ...]:
    """The weights of all convolutions and dense layers of a file, in its order."""
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
    """The index of the tensor that the last dense layer of a file gets.

    Raises:
        ValueError: there is no dense layer, or the file is no TFLite model.
    """
    model = read(path)
    operators = model.subgraphs[0].operators
    dense = [x for x in operators if operator_name(model, x) == "FULLY_CONNECTED"]
    if not dense:
        raise ValueError("it has no dense layer (FULLY_CONNECTED), before which it could end")
    return int(dense[-1].inputs[0])


def kernel_index(model: Any, operator: Any) -> int:
    """The tensor with an operator's weights; in half precision, what they are made floats of."""
    index = int(operator.inputs[1])
    before = producers(model).get(index)
    is_cast = before is not None and operator_name(model, before) == "DEQUANTIZE"
    return int(before.inputs[0]) if before is not None and is_cast else index


def distinct_values(kernel: np.ndarray) -> int:
    """Count the distinct integers; of floats, the most in an output channel."""
    parts = [kernel] if kernel.dtype == np.int8 else kernel
    return max(len(np.unique(part)) for part in parts)


def describe(path: PathLike) -> dict[str, Any]:
    """Return a file's description of itself, as plain data for JSON.

    Returns:
        Class names, protocol and the like as in `ModelInfo`, as far as they are known; `pixels`:
        range and layout of the input and the mean and deviation (per channel, in pixel units), or
        the scale and offset, by which the graph itself normalises, so that nobody else must;
        `signature`, its key; `inputs` and `outputs`, as
        lists of `name`, `shape` (None: any), `dtype`, `scale` and `zero_point` (None: float).
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
    """Turns pixels into what the input of an artifact takes.

    Args:
        batch: `(n, height, width, channels)`, any type, RGB in [0, 255].
        details: of the input, as `get_input_details()` of an interpreter or of its signature runner
            gives them.

    Returns:
        The same shape, in the type of the input: rounded to its steps and cut off at the ends of
        its range if that is an integer type.
    """
    dtype, (scale, zero_point) = np.dtype(details["dtype"]), _parameters(details)
    if scale is None or not np.issubdtype(dtype, np.integer):
        return batch.astype(dtype)
    steps = np.round(np.asarray(batch, np.float32) / scale) + zero_point
    limits = np.iinfo(dtype)
    return np.clip(steps, limits.min, limits.max).astype(dtype)


def dequantize_output(values: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    """Turns what an artifact puts out into float32 numbers of the same shape.

    Args:
        values: one output.
        details: of the output, as for `quantize_input`.
    """
    scale, zero_point = _parameters(details)
    if scale is None or not np.issubdtype(values.dtype, np.integer):
        return values.astype(np.float32)
    return ((values.astype(np.float32) - zero_point) * scale).astype(np.float32)


def _parameters(details: Mapping[str, Any]) -> tuple[np.float32 | None, int]:
    """Scale and zero point; no scale if the tensor is not quantized."""
    parameters = details["quantization_parameters"]
    if not len(parameters["scales"]):
        return None, 0
    return np.float32(parameters["scales"][0]), int(parameters["zero_points"][0])
