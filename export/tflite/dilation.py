"""Dilated convolutions as one operator, with the normalisation and the ReLU behind them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from keras_resnet.export.tflite.quantize import append_constant, builtin, is_constant

_OPS = schema.BuiltinOperator
_NONE = schema.ActivationFunctionType.NONE
_RELU = schema.ActivationFunctionType.RELU
_TYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.INT64: np.int64,
}


def fuse_dilated_convolutions(model: Any) -> None:
    """Puts one dilated convolution in the place of three operators and of what could be folded.

    The converter leaves TensorFlow's way to dilate: positions are moved into the batch, convolved
    and moved back. Neither normalisation nor ReLU become part of such a convolution, so that int8
    would round between them, where no range is learned. Of images of any size, the padding is not
    known, and all stays as it is.

    Args:
        model: a float model, as objects; it is changed.
    """
    graph = model.subgraphs[0]
    uses = Counter(int(i) for operator in graph.operators for i in operator.inputs)
    uses.update(int(i) for i in graph.outputs)
    users = {int(i): operator for operator in graph.operators for i in operator.inputs}

    def after(operator: Any) -> Any | None:
        """The only operator that takes in what another one puts out."""
        index = int(operator.outputs[0])
        return users.get(index) if uses[index] == 1 else None

    removed: list[Any] = []
    for split in graph.operators:
        if builtin(model, split) != _OPS.SPACE_TO_BATCH_ND:
            continue
        conv = after(split)
        joined = None if conv is None else after(conv)
        if conv is None or joined is None or not _is_dilation(model, split, conv, joined):
            continue
        last = _fold(model, conv, joined, after, removed)
        options = conv.builtinOptions
        height, width = _constant(model, split.inputs[1])
        options.dilationHFactor, options.dilationWFactor = int(height), int(width)
        shapes = [graph.tensors[i].shape for i in (split.inputs[0], joined.outputs[0])]
        same = np.array_equal(shapes[0][1:3], shapes[1][1:3])
        options.padding = schema.Padding.SAME if same else schema.Padding.VALID
        conv.inputs = [int(split.inputs[0]), *(int(i) for i in conv.inputs[1:])]
        conv.outputs = [int(last.outputs[0])]
        removed += [split, joined]
    for operator in removed:
        graph.operators.remove(operator)
    _drop_unused_codes(model)


def _is_dilation(model: Any, split: Any, conv: Any, joined: Any) -> bool:
    """Whether three operators are what a dilated convolution does by itself."""
    tensors, kinds = model.subgraphs[0].tensors, [builtin(model, x) for x in (conv, joined)]
    if kinds != [_OPS.CONV_2D, _OPS.BATCH_TO_SPACE_ND]:
        return False
    known = [*split.inputs[1:], *joined.inputs[1:], *conv.inputs[1:]]
    if not all(is_constant(model, tensors[i]) for i in known if i >= 0):
        return False
    options = conv.builtinOptions
    steps = (options.strideH, options.strideW, options.dilationHFactor, options.dilationWFactor)
    blocks = [_constant(model, x.inputs[1]) for x in (split, joined)]
    if steps != (1, 1, 1, 1) or not np.array_equal(blocks[0], blocks[1]):
        return False
    if options.fusedActivationFunction != _NONE or options.padding != schema.Padding.VALID:
        return False
    reach = (np.asarray(tensors[conv.inputs[1]].shape[1:3]) - 1) * blocks[0]
    before, cut = (_constant(model, x.inputs[2]).reshape(2, 2)[:, 0] for x in (split, joined))
    sides = [np.asarray(tensors[i].shape[1:3]) for i in (split.inputs[0], joined.outputs[0])]
    same = np.array_equal(sides[0], sides[1]) and np.array_equal(before, reach // 2)
    valid = np.array_equal(sides[0] - reach, sides[1]) and not before.any()
    return not cut.any() and (same or valid)


def _fold(model: Any, conv: Any, joined: Any, after: Any, removed: list[Any]) -> Any:
    """Makes factors, shifts and ReLU behind a convolution parts of it; the last operator of all."""
    graph = model.subgraphs[0]
    kernel = _constant(model, conv.inputs[1])
    bias = np.zeros(len(kernel), np.float32)
    if len(conv.inputs) > 2 and conv.inputs[2] >= 0:
        bias = _constant(model, conv.inputs[2])
    last, following = joined, after(joined)
    while following is not None and conv.builtinOptions.fusedActivationFunction == _NONE:
        kind, activation = builtin(model, following), _NONE
        if kind == _OPS.RELU:
            activation = _RELU
        elif kind in (_OPS.MUL, _OPS.ADD) and is_constant(
            model, graph.tensors[following.inputs[1]]
        ):
            values = _constant(model, following.inputs[1])
            activation = following.builtinOptions.fusedActivationFunction
            if values.size != len(bias) or activation not in (_NONE, _RELU):
                break
            if kind == _OPS.MUL:
                kernel, bias = kernel * values.reshape(-1, 1, 1, 1), bias * values.ravel()
            else:
                bias = bias + values.ravel()
        else:
            break
        conv.builtinOptions.fusedActivationFunction = activation
        removed.append(following)
        last, following = following, after(following)
    name = graph.tensors[conv.inputs[1]].name
    conv.inputs = [
        int(conv.inputs[0]),
        append_constant(model, kernel, name + b"/folded"),
        append_constant(model, bias, name + b"/bias"),
    ]
    return last


def _drop_unused_codes(model: Any) -> None:
    """Removes kinds of operators that nothing uses: the quantizer to int16 fails to load them."""
    operators = [operator for graph in model.subgraphs for operator in graph.operators]
    used = sorted({operator.opcodeIndex for operator in operators})
    for operator in operators:
        operator.opcodeIndex = used.index(operator.opcodeIndex)
    model.operatorCodes = [model.operatorCodes[index] for index in used]


def _constant(model: Any, index: Any) -> np.ndarray:
    tensor = model.subgraphs[0].tensors[int(index)]
    data = np.frombuffer(bytes(model.buffers[tensor.buffer].data), _TYPES[tensor.type])
    return data.reshape([int(side) for side in tensor.shape])
