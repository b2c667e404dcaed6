"""The ranges of activations, from which TFLite takes the steps of its integers.

They are measured on calibration images, or quantization-aware training has found them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from keras_resnet.compression.fusion import fused_groups
from keras_resnet.export.source import ExportSource, filled_up
from keras_resnet.export.tflite.norms import norms_as_convolutions
from keras_resnet.export.tflite.quantize import (
    LayerNames,
    builtin,
    is_constant,
    parse,
    serialize,
)
from keras_resnet.support.cores import usable_cores
from keras_resnet.support.extras import require
from keras_resnet.support.quiet import quiet

_OPS = schema.BuiltinOperator
_FLOAT32 = schema.TensorType.FLOAT32

#: Tensor -> smallest and largest number in it.
_Ranges = dict[int, tuple[float, float]]

#: Their outputs have the step of their input.
_PASSING = (
    *(_OPS.MAX_POOL_2D, _OPS.AVERAGE_POOL_2D, _OPS.REDUCE_MAX, _OPS.RESHAPE, _OPS.SQUEEZE),
    *(_OPS.TRANSPOSE, _OPS.STRIDED_SLICE, _OPS.SLICE),
)
_PADDING = (_OPS.PAD, _OPS.MIRROR_PAD)

#: Their outputs are between 0 and 1, with steps of 1/256.
_SHARES = (_OPS.SOFTMAX, _OPS.LOGISTIC)


def with_ranges(source: ExportSource, floating: bytes) -> bytes:
    """A float model with the range of every activation.

    TensorFlow's own calibrator works on one core without LiteRT's fast kernels, several times as
    slowly, and takes what `ADD` writes into the place of an input for that input.

    The range of the input is set to [0, 255], which is what pixels are: the scale of an integer
    input is then exactly 1, and no image has to be changed for that.

    Args:
        source: what is exported; has calibration images, or a model with learned ranges, which
            come before those on the images.
        floating: the float model.

    Raises:
        ValueError: there are neither, or not for all activations.
    """
    model = parse(floating)
    norms_as_convolutions(model)
    graph = model.subgraphs[0]
    produced = {int(i) for operator in graph.operators for i in operator.outputs}
    activations = sorted(i for i in produced if graph.tensors[i].type == _FLOAT32)
    found: _Ranges = {}
    names = LayerNames(source)
    if source.calibration is not None:
        found = _measured(model, names, activations, source)
    found[int(graph.inputs[0])] = (0.0, 255.0)
    if source.learned is not None:
        learned = _learned(model, names, source, source.learned)
        found = _passed_on(model, learned, found)
    for index in activations:
        if index not in found:
            raise ValueError(
                "Expected calibration images for integer activations. Received: none"
                f"{_beside(source, names.of_tensor(graph.tensors[index].name.decode()))}. Pass "
                "images like those the network will see"
            )
    for index, (low, high) in found.items():
        if low == high:
            # Nothing but zeros, as of dead units: LiteRT refuses the step of an empty range.
            high = low + 1
        ranges = schema.QuantizationParametersT()
        ranges.min, ranges.max = [float(low)], [float(high)]
        graph.tensors[index].quantization = ranges
    return serialize(model)


def _beside(source: ExportSource, layers: tuple[str, ...]) -> str:
    if source.learned is None:
        return ""
    return f", and no learned range of {' and '.join(layers) or 'an operator'}"


def _measured(
    model: Any, names: LayerNames, activations: list[int], source: ExportSource
) -> _Ranges:
    """The smallest and largest values on the calibration images."""
    lowest = np.full(len(activations), np.inf)
    highest = np.full(len(activations), -np.inf)
    for values in _activations(model, activations, source):
        lowest = np.minimum(lowest, [value.min() for value in values])
        highest = np.maximum(highest, [value.max() for value in values])
    with np.errstate(invalid="ignore", over="ignore"):
        widths = highest.astype(np.float32) - lowest.astype(np.float32)
    _refuse_infinite(model, names, activations, widths)
    pairs = zip(lowest.tolist(), highest.tolist(), strict=True)
    return dict(zip(activations, pairs, strict=True))


def _refuse_infinite(
    model: Any, names: LayerNames, activations: list[int], widths: np.ndarray
) -> None:
    """Refuses ranges that no scale can express, at which TensorFlow's quantizer would crash."""
    infinite = {a for a, width in zip(activations, widths, strict=True) if not np.isfinite(width)}
    for operator, layers in zip(
        model.subgraphs[0].operators, names.of_operators(model), strict=True
    ):
        if infinite.intersection(operator.outputs):
            raise ValueError(
                "Expected activations in a finite range on the calibration images. Received: "
                f"infinite or no numbers from {' and '.join(layers) or 'an operator'} on. Has the "
                "network been trained?"
            )


def _activations(model: Any, tensors: list[int], source: ExportSource) -> Iterator[list[Any]]:
    """The values of some tensors, for one batch of images after the other."""
    images, size = source.calibration, source.options.batch_size or 1
    assert images is not None
    probe = parse(serialize(model))
    probe.subgraphs[0].outputs, probe.signatureDefs = list(tensors), None
    with quiet():
        interpreter = require("ai_edge_litert.interpreter").Interpreter(
            model_content=serialize(probe), num_threads=usable_cores()
        )
        interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    for start in range(0, len(images), size):
        full = filled_up(images[start : start + size], size)
        if start == 0:
            interpreter.resize_tensor_input(image["index"], full.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(image["index"], full)
        interpreter.invoke()
        yield [interpreter.get_tensor(end["index"]) for end in interpreter.get_output_details()]


def _learned(
    model: Any,
    names: LayerNames,
    source: ExportSource,
    learned: Mapping[str, tuple[float, float]],
) -> _Ranges:
    """The learned ranges of the tensors that the layers' operators put out last."""
    place = {x: name for name, group in fused_groups(source.model).items() for x in group}
    found: dict[str, int] = {}
    operators = model.subgraphs[0].operators
    for operator, layers in zip(operators, names.of_operators(model), strict=True):
        if layers and builtin(model, operator) not in _SHARES:
            found[place.get(layers[-1], layers[-1])] = int(operator.outputs[0])
    return {tensor: learned[name] for name, tensor in found.items() if name in learned}


def _passed_on(model: Any, learned: _Ranges, others: _Ranges) -> _Ranges:
    """All ranges: the learned ones, what follows from them, and where nothing does, the others."""
    graph = model.subgraphs[0]
    ranges = {int(graph.inputs[0]): others[int(graph.inputs[0])]}
    for operator in graph.operators:
        number, output = builtin(model, operator), int(operator.outputs[0])
        before = [ranges[int(i)] for i in operator.inputs if int(i) in ranges]
        if output in learned:
            ranges[output] = learned[output]
        elif number in _SHARES:
            ranges[output] = (0.0, 1.0)
        elif before and number in _PASSING:
            ranges[output] = before[0]
        elif before and number in _PADDING:
            ranges[output] = (min(0.0, before[0][0]), max(0.0, before[0][1]))
        elif before and (after := _after_constant(model, operator, number, before[0])):
            ranges[output] = after
        elif output in others:
            ranges[output] = others[output]
    return ranges


def _after_constant(
    model: Any, operator: Any, number: int, range_: tuple[float, float]
) -> tuple[float, float] | None:
    """The range after the sum, difference or product with constants; None: it is none of these."""
    tensors = [model.subgraphs[0].tensors[i] for i in operator.inputs]
    functions = {_OPS.ADD: np.add, _OPS.SUB: np.subtract, _OPS.MUL: np.multiply}
    if number not in functions or not is_constant(model, tensors[1]):
        return None
    values = np.frombuffer(bytes(model.buffers[tensors[1].buffer].data), np.float32)
    ends = [functions[number](np.float32(end), values) for end in range_]
    low, high = float(np.min(ends)), float(np.max(ends))
    relu = schema.ActivationFunctionType.RELU
    return (max(low, 0.0), max(high, 0.0)) if _activation(operator) == relu else (low, high)


def _activation(operator: Any) -> int:
    return int(getattr(operator.builtinOptions, "fusedActivationFunction", 0))
