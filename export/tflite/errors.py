"""Which layers of a network int8 hurts most."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from keras_resnet.export.images import image_array
from keras_resnet.export.model import ExportedModel

from keras_resnet.export.tflite import flatbuffer
from keras_resnet.export.tflite.convert import calibrated_model
from keras_resnet.export.tflite.layers import LayerNames
from keras_resnet.export.tflite.private import BuiltinOperator as _Ops, TensorType, schema

#: The axis of the output channels in the weights of operators that are quantized per channel.
_CHANNEL_AXIS = {_Ops.CONV_2D: 0, _Ops.FULLY_CONNECTED: 0, _Ops.DEPTHWISE_CONV_2D: 3}

#: Operators that move values and keep the scale of their input: they add no error of their own.
_MOVES = (
    *(_Ops.PAD, _Ops.PADV2, _Ops.MIRROR_PAD, _Ops.MAX_POOL_2D, _Ops.RESHAPE, _Ops.SQUEEZE),
    *(_Ops.EXPAND_DIMS, _Ops.TRANSPOSE, _Ops.SLICE, _Ops.STRIDED_SLICE, _Ops.GATHER),
    *(_Ops.SPLIT, _Ops.PACK, _Ops.UNPACK, _Ops.SHAPE),
)


def layer_errors(exported: ExportedModel, images: Iterable[Any] | np.ndarray) -> dict[str, float]:
    """How much int8 in each layer alone changes what the network puts out; worst first.

    One layer at a time has its weights rounded per channel and its output rounded with the one
    scale that int8 gives it, all others compute in float. The error in a layer's own output, which
    TensorFlow's `QuantizationDebugger` measures, says little: relative to the scale it is the same
    for every layer, and a channel that drives the scale up hides what its neighbours lose.

    Args:
        exported: what is exported; has calibration images.
        images: `(n, height, width, channels)`, RGB in [0, 255], on which the change is measured.

    Returns:
        By the first Keras layer of each group that is computed at once (convolution, normalisation
        and activation): the root mean square of the change of the outputs, before the softmax, over
        their standard deviation.

    Raises:
        ValueError: there are no calibration images, or `images` do not fit the model.
    """
    content = calibrated_model(exported)
    batch = image_array(images, exported.model.input_shape, "images")
    size = exported.options.batch_size or len(batch)
    groups: dict[str, list[int]] = {}
    model = flatbuffer.parse(content)
    for index, layers in enumerate(LayerNames(exported).of_operators(model)):
        if layers and flatbuffer.builtin(model, model.subgraphs[0].operators[index]) not in _MOVES:
            groups.setdefault(layers[0], []).append(index)

    def outputs(model: Any, tensors: list[int]) -> list[np.ndarray]:
        parts = zip(*flatbuffer.tensor_values(model, tensors, batch, size), strict=True)
        return [np.concatenate(values)[: len(batch)].astype(np.float64) for values in parts]

    observed = _before_softmax(model)
    expected = outputs(model, observed)
    errors = {}
    for layer, indices in groups.items():
        rounded = flatbuffer.parse(content)
        moved = _round_layer(rounded, indices)
        received = outputs(rounded, [moved.get(i, i) for i in observed])
        ratios = [
            np.mean((have - want) ** 2) / max(float(np.var(want)), 1e-12)
            for have, want in zip(received, expected, strict=True)
        ]
        errors[layer] = float(np.sqrt(np.mean(ratios)))
    return dict(sorted(errors.items(), key=lambda item: -item[1]))


def _before_softmax(model: Any) -> list[int]:
    """Indices of the tensors that the graph puts out, or of what its last softmax takes."""
    makers, observed = flatbuffer.producers(model), []
    for index in map(int, model.subgraphs[0].outputs):
        maker = makers.get(index)
        squashes = maker and flatbuffer.builtin(model, maker) in (_Ops.SOFTMAX, _Ops.LOGISTIC)
        observed.append(int(maker.inputs[0]) if maker and squashes else index)
    return observed


def _round_layer(model: Any, indices: Sequence[int]) -> dict[int, int]:
    """Rounds weights and outputs of some operators of a float model as int8 does.

    Returns the tensors that have taken the place of others.
    """
    graph = model.subgraphs[0]
    rounded: dict[int, int] = {}
    operators: list[Any] = []
    for index, operator in enumerate(graph.operators):
        operator.inputs = [rounded.get(int(i), int(i)) for i in operator.inputs]
        operators.append(operator)
        if index in indices:
            _round_weights(model, operator)
            output = int(operator.outputs[0])
            if graph.tensors[output].type == TensorType.FLOAT32:
                rounded[output] = _round_output(model, output, operators)
    graph.operators = operators
    return rounded


def _round_weights(model: Any, operator: Any) -> None:
    axis = _CHANNEL_AXIS.get(flatbuffer.builtin(model, operator))
    values = None if axis is None else flatbuffer.constant(model, operator.inputs[1])
    if values is None or values.dtype != np.float32:
        return
    others = tuple(i for i in range(values.ndim) if i != axis)
    scale = np.abs(values).max(axis=others, keepdims=True) / 127
    steps = np.round(values / np.where(scale == 0, 1, scale))
    name = model.subgraphs[0].tensors[operator.inputs[1]].name
    operator.inputs[1] = flatbuffer.append_constant(model, steps * scale, name)


def _round_output(model: Any, output: int, operators: list[Any]) -> int:
    """Appends what rounds a tensor to int8 and back; returns the new tensor."""
    tensor = model.subgraphs[0].tensors[output]
    low = min(0.0, float(tensor.quantization.min[0]))
    high = max(0.0, float(tensor.quantization.max[0]))
    scale = max(high - low, 1e-9) / 255
    parameters = schema.QuantizationParametersT()
    parameters.scale, parameters.zeroPoint = [scale], [round(-128 - low / scale)]
    integers, back = copy.copy(tensor), copy.copy(tensor)
    integers.type, integers.quantization = TensorType.INT8, parameters
    whole, new = flatbuffer.append_tensor(model, integers), flatbuffer.append_tensor(model, back)
    operators.append(flatbuffer.cast(model, _Ops.QUANTIZE, output, whole))
    operators.append(flatbuffer.cast(model, _Ops.DEQUANTIZE, whole, new))
    return new
