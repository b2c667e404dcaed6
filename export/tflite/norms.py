"""Batch normalisation without a convolution before it, in integers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from keras_resnet.export.tflite.quantize import append_constant, builtin, is_constant

_OPS = schema.BuiltinOperator
_NONE = schema.ActivationFunctionType.NONE


def norms_as_convolutions(model: Any) -> None:
    """Turns products and sums with a constant per channel into depthwise 1x1 convolutions.

    So a pre-activation network has its normalisations. In integers, the scales of all channels of a
    product share a step, which ruins those of the small ones; a depthwise convolution has a step
    per channel, so that its scales are exact.

    Args:
        model: a float model, as objects; it is changed.
    """
    graph = model.subgraphs[0]
    uses = Counter(int(i) for operator in graph.operators for i in operator.inputs)
    uses.update(int(i) for i in graph.outputs)
    users = {int(i): operator for operator in graph.operators for i in operator.inputs}
    removed = []
    for operator in graph.operators:
        # The three channels of pixels have one scale or nearly so, and an exact range.
        if builtin(model, operator) != _OPS.MUL or operator.inputs[0] == graph.inputs[0]:
            continue
        scale = _per_channel(model, operator)
        if scale is None or _is_preprocessing(model, operator):
            continue
        shift, last = np.zeros_like(scale), operator
        after = users.get(int(operator.outputs[0]))
        if (
            after is not None
            and builtin(model, after) == _OPS.ADD
            and operator.builtinOptions.fusedActivationFunction == _NONE
            and uses[int(operator.outputs[0])] == 1
            and (added := _per_channel(model, after)) is not None
        ):
            shift, last = added, after
            removed.append(after)
        _become(model, operator, scale, shift, last)
    for operator in removed:
        graph.operators.remove(operator)


def _per_channel(model: Any, operator: Any) -> np.ndarray | None:
    """The constant that an operator combines every channel of maps with; None if it has none."""
    if len(operator.inputs) != 2:
        return None
    value, constant = (model.subgraphs[0].tensors[i] for i in operator.inputs)
    if not is_constant(model, constant) or len(value.shape) != 4:
        return None
    channels = int(value.shape[3])
    if constant.type != schema.TensorType.FLOAT32 or constant.shape[-1] != channels:
        return None
    array = np.frombuffer(bytes(model.buffers[constant.buffer].data), np.float32)
    return array if array.size == channels > 1 else None


def _is_preprocessing(model: Any, operator: Any) -> bool:
    """Whether an operator works on the pixels, or on what was subtracted from them."""
    graph = model.subgraphs[0]
    makers = {int(i): made for made in graph.operators for i in made.outputs}
    tensor = int(operator.inputs[0])
    while tensor in makers and _per_channel(model, makers[tensor]) is not None:
        tensor = int(makers[tensor].inputs[0])
    return tensor == int(graph.inputs[0])


def _become(model: Any, operator: Any, scale: np.ndarray, shift: np.ndarray, last: Any) -> None:
    graph = model.subgraphs[0]
    options = schema.DepthwiseConv2DOptionsT()
    options.padding, options.strideW, options.strideH = schema.Padding.VALID, 1, 1
    options.depthMultiplier = options.dilationWFactor = options.dilationHFactor = 1
    options.fusedActivationFunction = last.builtinOptions.fusedActivationFunction
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = _OPS.DEPTHWISE_CONV_2D
    code.version = 1
    model.operatorCodes.append(code)
    name = graph.tensors[operator.inputs[1]].name
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.builtinOptionsType = schema.BuiltinOptions.DepthwiseConv2DOptions
    operator.builtinOptions = options
    channels = scale.size
    operator.inputs = [
        int(operator.inputs[0]),
        append_constant(model, scale.reshape(1, 1, 1, channels), name + b"/kernel"),
        append_constant(model, shift, name + b"/bias"),
    ]
    operator.outputs = [int(i) for i in last.outputs]
