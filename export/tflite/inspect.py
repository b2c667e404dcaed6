"""What is in a TFLite file: operators, what computes in float, the types of its ends."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

from keras_resnet.export.metadata import entry_of_tflite

#: From and to integers; they compute nothing.
_CASTS = ("QUANTIZE", "DEQUANTIZE")

_FLOATS = (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16)
_INTEGERS = (schema.TensorType.INT8, schema.TensorType.INT16, schema.TensorType.UINT8)

#: NumPy-like names of the numbers that the schema has for types.
_TYPE_NAMES = {
    number: name.lower() for name, number in vars(schema.TensorType).items() if name.isupper()
}

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class FloatOperator:
    """An operator that computes in float.

    Attributes:
        operator: its built-in name, such as `CONV_2D`.
        layers: the Keras layers that it computes; of a foreign file, the name of its output.
    """

    operator: str
    layers: tuple[str, ...]


def operators(path: PathLike) -> dict[str, int]:
    """How often each built-in operator occurs in a file, the most frequent first.

    Raises:
        ValueError: the file is no TFLite model.
    """
    model = read(path)
    names = [
        flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
        for graph in model.subgraphs
        for operator in graph.operators
    ]
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def float_layers(path: PathLike) -> tuple[str, ...]:
    """Names of the Keras layers that a file computes in float, in the order of the network.

    Where weights are integers but activations are not (dynamic range), the layers with such weights
    are not among them: runtimes compute them in integers.

    Raises:
        ValueError: the file is no TFLite model.
    """
    found = (layer for operator in float_operators(path) for layer in operator.layers)
    return tuple(dict.fromkeys(found))


def float_operators(path: PathLike) -> tuple[FloatOperator, ...]:
    """The operators that a file computes in float, in their order.

    Raises:
        ValueError: the file is no TFLite model.
    """
    model = read(path)
    return tuple(_float_operators(model, entry_of_tflite(model).get("layers") or {}))


def _float_operators(model: Any, layers_of_outputs: Mapping[str, str]) -> Iterator[FloatOperator]:
    graph = model.subgraphs[0]
    for operator in graph.operators:
        name = flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
        inputs = [graph.tensors[index] for index in operator.inputs if index >= 0]
        output = graph.tensors[operator.outputs[0]]
        if name in _CASTS or output.type not in _FLOATS:
            continue
        if any(tensor.type in _INTEGERS for tensor in inputs):
            continue
        text = re.sub(r":\d+$", "", output.name.decode())
        text = layers_of_outputs.get(text) or text
        yield FloatOperator(name, tuple(text.split(";")))


@dataclass(frozen=True)
class KernelFacts:
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
    """The weights of all convolutions and dense layers of a file, in its order.

    Raises:
        ValueError: the file is no TFLite model.
    """
    model = read(path)
    graph, layers_of_outputs = model.subgraphs[0], entry_of_tflite(model).get("layers") or {}
    made = {int(operator.outputs[0]): operator for operator in graph.operators}
    found = []
    for operator in graph.operators:
        name = flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
        if name not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            continue
        index = int(operator.inputs[1])
        # In half precision, weights are made floats first.
        tensor = graph.tensors[made[index].inputs[0] if index in made else index]
        types = {number: np.dtype(kind) for number, kind in _WEIGHTS.items()}
        if tensor.type not in types or model.buffers[tensor.buffer].data is None:
            continue
        values = np.frombuffer(bytes(model.buffers[tensor.buffer].data), types[tensor.type])
        channels = values.reshape(int(tensor.shape[0]), -1)
        integers = values.dtype == np.int8
        distinct = max(len(np.unique(part)) for part in ([values] if integers else channels))
        text = re.sub(r":\d+$", "", graph.tensors[operator.outputs[0]].name.decode())
        layers = tuple((layers_of_outputs.get(text) or text).split(";"))
        found.append(KernelFacts(layers, values.size, int((values == 0).sum()), distinct))
    return tuple(found)


_WEIGHTS = {
    schema.TensorType.FLOAT32: "float32",
    schema.TensorType.FLOAT16: "float16",
    schema.TensorType.INT8: "int8",
}


def describe(path: PathLike) -> dict[str, Any]:
    """What a file says about itself, as plain data for JSON.

    Returns:
        Class names, protocol and the like as in `ModelInfo`, as far as they are known; `pixels`:
        range and layout of the input and the mean and deviation (per channel, in pixel units), or
        the scale and offset, by which the graph itself normalises, so that nobody else must;
        `signature`, its key; `inputs` and `outputs`, as
        lists of `name`, `shape` (None: any), `dtype`, `scale` and `zero_point` (None: float).

    Raises:
        ValueError: the file is no TFLite model.
    """
    model = read(path)
    graph = model.subgraphs[0]
    signature = model.signatureDefs[0] if model.signatureDefs else None
    ends: dict[str, list[tuple[str, int]]] = {}
    for which in ("inputs", "outputs"):
        if signature is None:
            indices = getattr(graph, which)
            ends[which] = [(graph.tensors[index].name.decode(), index) for index in indices]
        else:
            named = getattr(signature, which)
            ends[which] = [(end.name.decode(), end.tensorIndex) for end in named]
    described = {
        which: [_end(name, graph.tensors[index]) for name, index in pairs]
        for which, pairs in ends.items()
    }
    entry = {key: value for key, value in entry_of_tflite(model).items() if key != "layers"}
    key = None if signature is None else signature.signatureKey.decode()
    return {**entry, "signature": key, **described}


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


def read(path: PathLike) -> Any:
    """The flatbuffer of a file as objects.

    Raises:
        ValueError: the file is no TFLite model.
    """
    content = Path(path).read_bytes()
    if content[4:8] != b"TFL3":
        raise ValueError(f"Expected a TFLite file. Received: {path}, which is something else")
    return flatbuffer_utils.convert_bytearray_to_object(bytearray(content))


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
    dtype = np.dtype(details["dtype"])
    if not np.issubdtype(dtype, np.integer):
        return batch.astype(dtype)
    scale, zero_point = _parameters(details)
    if scale is None:
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
