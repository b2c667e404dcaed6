"""Exact integer forms of batch normalization that does not follow a convolution."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_resnet.export.tflite import flatbuffer
from keras_resnet.export.tflite.private import NO_ACTIVATION, BuiltinOperator, schema


def norms_as_convolutions(model: Any) -> None:
    """Turn products and sums with a constant per channel into depthwise 1x1 convolutions.

    Pre-activation networks have such normalizations. In integers, all channels of a product share
    one scale, which is too coarse for channels with small factors. A depthwise convolution has a
    scale per channel.

    Args:
        model: float model as objects; changed in place.
    """
    graph = model.subgraphs[0]
    after, removed = flatbuffer.followers(model), []
    for operator in graph.operators:
        if flatbuffer.builtin(model, operator) != BuiltinOperator.MUL:
            continue
        scale = _per_channel(model, operator)
        # The channels of pixels have nearly the same factor and an exact range.
        if scale is None or _is_preprocessing(model, operator):
            continue
        shift, last, following = np.zeros_like(scale), operator, after(operator)
        if (
            following is not None
            and flatbuffer.builtin(model, following) == BuiltinOperator.ADD
            and operator.builtinOptions.fusedActivationFunction == NO_ACTIVATION
            and (added := _per_channel(model, following)) is not None
        ):
            shift, last = added, following
            removed.append(following)
        _become_convolution(model, operator, scale, shift, last)
    for operator in removed:
        graph.operators.remove(operator)


def _per_channel(model: Any, operator: Any) -> np.ndarray | None:
    """Return the constant that an operator combines each channel with; None if it has none."""
    if len(operator.inputs) != 2:
        return None
    values = flatbuffer.constant(model, operator.inputs[1])
    shape = model.subgraphs[0].tensors[operator.inputs[0]].shape
    if values is None or values.dtype != np.float32 or len(shape) != 4:
        return None
    fits = values.size == shape[3] > 1 and values.shape[-1] == shape[3]
    return values.ravel() if fits else None


def _is_preprocessing(model: Any, operator: Any) -> bool:
    """Return whether an operator is part of the normalization of the pixels."""
    makers = flatbuffer.producers(model)
    tensor = int(operator.inputs[0])
    while tensor in makers and _per_channel(model, makers[tensor]) is not None:
        tensor = int(makers[tensor].inputs[0])
    return tensor == int(model.subgraphs[0].inputs[0])


def _become_convolution(
    model: Any, operator: Any, scale: np.ndarray, shift: np.ndarray, last: Any
) -> None:
    """Turn an operator into a depthwise convolution with the outputs and activation of `last`."""
    options = schema.DepthwiseConv2DOptionsT()
    options.padding, options.strideW, options.strideH = schema.Padding.VALID, 1, 1
    options.depthMultiplier = options.dilationWFactor = options.dilationHFactor = 1
    options.fusedActivationFunction = last.builtinOptions.fusedActivationFunction
    new = flatbuffer.new_operator(model, BuiltinOperator.DEPTHWISE_CONV_2D)
    operator.opcodeIndex = new.opcodeIndex
    operator.builtinOptionsType = schema.BuiltinOptions.DepthwiseConv2DOptions
    operator.builtinOptions = options
    name = model.subgraphs[0].tensors[operator.inputs[1]].name
    operator.inputs = [
        int(operator.inputs[0]),
        flatbuffer.append_constant(model, scale.reshape(1, 1, 1, -1), name + b"/kernel"),
        flatbuffer.append_constant(model, shift, name + b"/bias"),
    ]
    operator.outputs = [int(i) for i in last.outputs]
