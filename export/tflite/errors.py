"""Which layers of a network int8 hurts most."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from keras_resnet.export.source import ExportSource, filled_up, image_array
from keras_resnet.export.tflite.convert import calibrated_model
from keras_resnet.export.tflite.quantize import (
    LayerNames,
    builtin,
    is_constant,
    parse,
    serialize,
    unary,
)
from keras_resnet.support.cores import usable_cores
from keras_resnet.support.extras import require
from keras_resnet.support.quiet import quiet

_OPS = schema.BuiltinOperator
_FLOAT32 = schema.TensorType.FLOAT32
_INT8 = schema.TensorType.INT8

#: The axis of the output channels in the weights of operators that are quantized per channel.
_CHANNEL_AXIS = {_OPS.CONV_2D: 0, _OPS.FULLY_CONNECTED: 0, _OPS.DEPTHWISE_CONV_2D: 3}

#: Operators that move values and keep the scale of their input: they add no error of their own.
_MOVES = {
    _OPS.PAD,
    _OPS.PADV2,
    _OPS.MIRROR_PAD,
    _OPS.MAX_POOL_2D,
    _OPS.RESHAPE,
    _OPS.SQUEEZE,
    _OPS.EXPAND_DIMS,
    _OPS.TRANSPOSE,
    _OPS.SLICE,
    _OPS.STRIDED_SLICE,
    _OPS.GATHER,
    _OPS.SPLIT,
    _OPS.PACK,
    _OPS.UNPACK,
    _OPS.SHAPE,
}


def layer_errors(source: ExportSource, images: Iterable[Any] | np.ndarray) -> dict[str, float]:
    """How much int8 in each layer alone changes what the network puts out; worst first.

    One layer at a time has its weights rounded per channel and its output rounded with the one
    scale that int8 gives it, all others compute in float. The error in a layer's own output, which
    TensorFlow's `QuantizationDebugger` measures, says little: relative to the scale it is the same
    for every layer, and a channel that drives the scale up hides what its neighbours lose.

    Args:
        source: what is exported; has calibration images.
        images: `(n, height, width, channels)`, RGB in [0, 255], on which the change is measured.

    Returns:
        By the first Keras layer of each group that is computed at once (convolution, normalisation
        and activation): the root mean square of the change of the outputs, before the softmax, over
        their standard deviation.

    Raises:
        ValueError: there are no calibration images, or `images` do not fit the model.
    """
    content = calibrated_model(source)
    batch = image_array(images, source.model.input_shape, "images")
    names = LayerNames(source)
    groups: dict[str, list[int]] = {}
    model = parse(content)
    for index, layers in enumerate(names.of_operators(model)):
        if layers and builtin(model, model.subgraphs[0].operators[index]) not in _MOVES:
            groups.setdefault(layers[0], []).append(index)
    observed = _before_softmax(model)
    expected = _outputs(content, observed, batch, source)
    errors = {}
    for layer, indices in groups.items():
        rounded, moved = _with_rounding(content, indices)
        received = _outputs(rounded, [moved.get(i, i) for i in observed], batch, source)
        ratios = [
            np.mean((have - want) ** 2) / max(float(np.var(want)), 1e-12)
            for have, want in zip(received, expected, strict=True)
        ]
        errors[layer] = float(np.sqrt(np.mean(ratios)))
    return dict(sorted(errors.items(), key=lambda item: -item[1]))


def _before_softmax(model: Any) -> list[int]:
    """Indices of the tensors that the graph puts out, or of what its last softmax takes."""
    graph = model.subgraphs[0]
    producers = {operator.outputs[0]: operator for operator in graph.operators}
    observed = []
    for index in graph.outputs:
        producer = producers.get(index)
        squashes = producer is not None and builtin(model, producer) in (
            _OPS.SOFTMAX,
            _OPS.LOGISTIC,
        )
        observed.append(
            int(producer.inputs[0]) if squashes and producer is not None else int(index)
        )
    return observed


def _outputs(
    content: bytes, observed: list[int], batch: np.ndarray, source: ExportSource
) -> list[np.ndarray]:
    """What a float model computes for all images in some of its tensors."""
    model = parse(content)
    graph = model.subgraphs[0]
    graph.outputs, model.signatureDefs = [*observed], None
    Interpreter = require("ai_edge_litert.interpreter").Interpreter  # noqa: N806
    size = source.options.batch_size or len(batch)
    parts = []
    with quiet():
        interpreter = Interpreter(model_content=serialize(model), num_threads=usable_cores())
        index = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(index, (size, *batch.shape[1:]))
        interpreter.allocate_tensors()
        for start in range(0, len(batch), size):
            some = batch[start : start + size]
            interpreter.set_tensor(index, filled_up(some, size))
            interpreter.invoke()
            details = interpreter.get_output_details()
            parts.append([interpreter.get_tensor(d["index"])[: len(some)] for d in details])
    return [np.concatenate(values).astype(np.float64) for values in zip(*parts, strict=True)]


def _with_rounding(calibrated: bytes, indices: Sequence[int]) -> tuple[bytes, dict[int, int]]:
    """The float model in which some operators round weights and outputs as int8 does.

    With it, the tensors that have taken the place of others.
    """
    model = parse(calibrated)
    graph = model.subgraphs[0]
    rounded: dict[int, int] = {}
    operators: list[Any] = []
    for index, operator in enumerate(graph.operators):
        operator.inputs = [rounded.get(int(i), int(i)) for i in operator.inputs]
        operators.append(operator)
        if index in indices:
            _round_weights(model, operator)
            output = int(operator.outputs[0])
            if graph.tensors[output].type == _FLOAT32:
                rounded[output] = _round_output(model, output, operators)
    graph.operators = operators
    return serialize(model), rounded


def _round_weights(model: Any, operator: Any) -> None:
    axis = _CHANNEL_AXIS.get(builtin(model, operator))
    if axis is None:
        return
    graph = model.subgraphs[0]
    tensor = graph.tensors[operator.inputs[1]]
    if tensor.type != _FLOAT32 or not is_constant(model, tensor):
        return
    data = np.asarray(model.buffers[tensor.buffer].data, np.uint8).view(np.float32)
    values = data.reshape(tensor.shape)
    others = tuple(i for i in range(values.ndim) if i != axis)
    scale = np.abs(values).max(axis=others, keepdims=True) / 127
    steps = np.round(values / np.where(scale == 0, 1, scale))
    buffer = schema.BufferT()
    buffer.data = (steps * scale).astype(np.float32).ravel().view(np.uint8)
    twin = copy.copy(tensor)
    twin.buffer = len(model.buffers)
    model.buffers.append(buffer)
    graph.tensors.append(twin)
    operator.inputs[1] = len(graph.tensors) - 1


def _round_output(model: Any, output: int, operators: list[Any]) -> int:
    """Appends what rounds a tensor to int8 and back; returns the new tensor."""
    graph = model.subgraphs[0]
    tensor = graph.tensors[output]
    ranges = tensor.quantization
    low, high = min(0.0, float(ranges.min[0])), max(0.0, float(ranges.max[0]))
    scale = max(high - low, 1e-9) / 255
    integers, back = copy.copy(tensor), copy.copy(tensor)
    parameters = schema.QuantizationParametersT()
    parameters.scale, parameters.zeroPoint = [scale], [round(-128 - low / scale)]
    integers.type, integers.quantization = _INT8, parameters
    graph.tensors += [integers, back]
    new = len(graph.tensors) - 1
    operators.append(unary(model, _OPS.QUANTIZE, output, new - 1))
    operators.append(unary(model, _OPS.DEQUANTIZE, new - 1, new))
    return new
