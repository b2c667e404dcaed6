"""Ranges of activations, which determine the scales of integers.

They are measured on calibration images, or learned by quantization-aware training.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_resnet.compression.fusion import fused_groups
from keras_resnet.export.model import ExportedModel
from keras_resnet.export.tflite import flatbuffer
from keras_resnet.export.tflite.layers import LayerNames
from keras_resnet.export.tflite.norms import norms_as_convolutions
from keras_resnet.export.tflite.private import RELU, BuiltinOperator as _Ops, TensorType, schema

#: Smallest and largest value of tensors, by index.
_Ranges = dict[int, tuple[float, float]]

#: Operators whose output has the range of their input.
_PASSING = (
    *(_Ops.MAX_POOL_2D, _Ops.AVERAGE_POOL_2D, _Ops.REDUCE_MAX, _Ops.RESHAPE, _Ops.SQUEEZE),
    *(_Ops.TRANSPOSE, _Ops.STRIDED_SLICE, _Ops.SLICE),
)
_PADDING = (_Ops.PAD, _Ops.MIRROR_PAD)

#: Operators whose output is in [0, 1], with a scale of 1/256.
_SHARES = (_Ops.SOFTMAX, _Ops.LOGISTIC)

_ELEMENTWISE = {_Ops.ADD: np.add, _Ops.SUB: np.subtract, _Ops.MUL: np.multiply}


def with_ranges(exported: ExportedModel, floating: bytes) -> bytes:
    """Return a float model with the range of every activation.

    TensorFlow's calibrator is not used: it runs on one core without LiteRT's fast kernels, several
    times more slowly, and mistakes the output of an in-place `ADD` for its input.

    The range of the input is [0, 255], whatever the images have, so that the scale of an integer
    input is exactly 1.

    Args:
        exported: exported model with calibration images or learned ranges; learned ranges take
            precedence.
        floating: the float model.

    Raises:
        ValueError: an activation has no range.
    """
    model = flatbuffer.parse(floating)
    norms_as_convolutions(model)
    graph = model.subgraphs[0]
    activations = sorted(
        i for i in flatbuffer.producers(model) if graph.tensors[i].type == TensorType.FLOAT32
    )
    ranges: _Ranges = {}
    names = LayerNames(exported)
    layers = names.of_operators(model)
    if exported.calibration is not None:
        ranges = _measured(model, layers, activations, exported)
    ranges[int(graph.inputs[0])] = (0.0, 255.0)
    if exported.learned is not None:
        ranges = _passed_on(model, _learned(model, layers, exported), ranges)
    for index in activations:
        if index not in ranges:
            missing = ""
            if exported.learned is not None:
                found = names.of_tensor(graph.tensors[index].name.decode())
                missing = f", and no learned range of {' and '.join(found) or 'an operator'}"
            raise ValueError(
                f"Expected calibration images for integer activations. Received: none{missing}. "
                "Pass images like those the network will see"
            )
    for index, (low, high) in ranges.items():
        parameters = schema.QuantizationParametersT()
        # LiteRT refuses an empty range, such as that of dead units, which are always 0.
        high = low + 1 if low == high else high
        parameters.min, parameters.max = [float(low)], [float(high)]
        graph.tensors[index].quantization = parameters
    return flatbuffer.serialize(model)


def _measured(
    model: Any,
    layers: list[tuple[str, ...]],
    activations: list[int],
    exported: ExportedModel,
) -> _Ranges:
    """Return the ranges of activations on the calibration images."""
    lowest = np.full(len(activations), np.inf)
    highest = np.full(len(activations), -np.inf)
    images, size = exported.calibration, exported.options.batch_size or 1
    assert images is not None
    for values in flatbuffer.tensor_values(model, activations, images, size):
        lowest = np.minimum(lowest, [value.min() for value in values])
        highest = np.maximum(highest, [value.max() for value in values])
    with np.errstate(invalid="ignore", over="ignore"):
        widths = highest.astype(np.float32) - lowest.astype(np.float32)
    # TensorFlow's quantizer would crash at infinite ranges.
    infinite = {a for a, width in zip(activations, widths, strict=True) if not np.isfinite(width)}
    for operator, found in zip(model.subgraphs[0].operators, layers, strict=True):
        if infinite.intersection(operator.outputs):
            raise ValueError(
                "Expected finite activations on the calibration images. Received: infinity or NaN "
                f"in the output of {' and '.join(found) or 'an operator'}. Check that the network "
                "has been trained"
            )
    pairs = zip(lowest.tolist(), highest.tolist(), strict=True)
    return dict(zip(activations, pairs, strict=True))


def _learned(model: Any, layers: list[tuple[str, ...]], exported: ExportedModel) -> _Ranges:
    """Return the learned ranges by tensor: the last output of each layer's operators."""
    place = {x: name for name, group in fused_groups(exported.model).items() for x in group}
    tensors: dict[str, int] = {}
    for operator, found in zip(model.subgraphs[0].operators, layers, strict=True):
        if found and flatbuffer.builtin(model, operator) not in _SHARES:
            tensors[place.get(found[-1], found[-1])] = int(operator.outputs[0])
    learned = exported.learned or {}
    return {tensor: learned[name] for name, tensor in tensors.items() if name in learned}


def _passed_on(model: Any, learned: _Ranges, others: _Ranges) -> _Ranges:
    """Return the learned ranges, those that follow from them, and `others` for the remainder."""
    graph = model.subgraphs[0]
    ranges = {int(graph.inputs[0]): others[int(graph.inputs[0])]}
    for operator in graph.operators:
        number, output = flatbuffer.builtin(model, operator), int(operator.outputs[0])
        before = [ranges[int(i)] for i in operator.inputs if int(i) in ranges]
        if output in learned:
            ranges[output] = learned[output]
        elif number in _SHARES:
            ranges[output] = (0.0, 1.0)
        elif before and number in _PASSING:
            ranges[output] = before[0]
        elif before and number in _PADDING:
            ranges[output] = (min(0.0, before[0][0]), max(0.0, before[0][1]))
        elif before and (after := _after_constant(model, operator, before[0])):
            ranges[output] = after
        elif output in others:
            ranges[output] = others[output]
    return ranges


def _after_constant(
    model: Any, operator: Any, before: tuple[float, float]
) -> tuple[float, float] | None:
    """Return the range after a sum, difference or product with a constant; None for others."""
    combine = _ELEMENTWISE.get(flatbuffer.builtin(model, operator))
    values = None if combine is None else flatbuffer.constant(model, operator.inputs[1])
    if combine is None or values is None:
        return None
    ends = [combine(np.float32(end), values) for end in before]
    low, high = float(np.min(ends)), float(np.max(ends))
    with_relu = operator.builtinOptions.fusedActivationFunction == RELU
    return (max(low, 0.0), max(high, 0.0)) if with_relu else (low, high)
