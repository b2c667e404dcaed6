"""ONNX in int8: static quantization, and which layers it hurts most.

Weights are int8 per channel, activations uint8 per tensor: the pair that x86 multiplies fastest.
Weights use 7 of their 8 bits, since processors without VNNI add two products in 16 bits, which
8 bits overflow (ONNX Runtime's `reduce_range`); one file is right on all of them.

Ranges are the smallest and largest values on the calibration images: cutting them off at a
percentile or by entropy agreed no better with the float network on the digits example, and would
have to hold all activations in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnet.export.onnx.convert import (
    KERNEL_OPERATORS,
    finish,
    float_model,
    input_batches,
    layer_of,
    session,
)
from keras_resnet.export.onnx.fold import replace_input
from keras_resnet.export.onnx.ranges import learned_ranges
from keras_resnet.export.source import IMAGE, ExportSource, check_kept_layers
from keras_resnet.support.extras import require
from keras_resnet.support.quiet import quiet

#: Few enough for the activations of a large network to stay small.
_BATCH_SIZE = 4

#: Operators that pass on values as they are, or cut them off: a wide range stays wide.
_PASSING = (
    *("Relu", "Clip", "LeakyRelu", "MaxPool", "AveragePool", "Pad"),
    *("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose"),
)

#: What is quantized. Softmax stays float: its result is what users see.
_QUANTIZED = [
    *KERNEL_OPERATORS,
    *_PASSING,
    *("Add", "Mul", "Concat", "Sigmoid", "GlobalAveragePool"),
]

_ELEMENTWISE = ("Add", "Sub", "Mul", "Div")


def write_int8(source: ExportSource, path: Path) -> None:
    """Writes an int8 ONNX file (QuantizeLinear and DequantizeLinear around float operators).

    Input and output are float32. In float stay the softmax, the head's logits, normalisations that
    are not folded into a convolution (a scale per channel that one scale per tensor would ruin),
    and `options.keep_float`. What a kept layer puts out is not quantized either, so that the
    operators that take it in are float, too.

    Raises:
        ValueError: there are no calibration images, or the network has no such layer to keep.
    """
    proto = float_model(source)
    finish(_quantized(proto, source), source, path)


def layer_errors(source: ExportSource, images: np.ndarray) -> dict[str, float]:
    """How much int8 disturbs the network in each layer, the worst layer first.

    One layer at a time has its weights and what it puts out rounded as in the int8 file, all others
    are float; the error is that of the network's outputs (before a softmax, which would hide it),
    root mean square, relative to theirs. Comparing the activations of the two networks instead, as
    `onnxruntime.quantization.qdq_loss_debug` does, shows where errors arrive, which is everywhere
    behind the layer that makes them. Takes one run of the network per layer.

    Args:
        source: has the calibration images, and the layers that are kept in float: these are left
            out.
        images: what to measure on, float32 `(n, height, width, channels)`, RGB in [0, 255].

    Returns:
        Names of Keras layers and errors: 0.01 means one percent.

    Raises:
        ValueError: as for `write_int8`.
    """
    proto = float_model(source)
    rounded = _rounded_tensors(proto, _quantized(proto, source))
    _end_before_softmax(proto)
    batches = list(input_batches(source, images, _BATCH_SIZE))

    def outputs(model: Any) -> np.ndarray:
        running = session(model.SerializeToString())
        parts = [running.run(None, {IMAGE: batch}) for batch in batches]
        return np.concatenate([value.ravel() for part in parts for value in part])

    expected = outputs(proto)
    scale = np.sqrt(np.mean(np.square(expected))) or 1.0
    errors = {}
    for layer, (weights, activations) in rounded.items():
        received = outputs(_with_rounding(proto, weights, activations))
        errors[layer] = float(np.sqrt(np.mean(np.square(received - expected))) / scale)
    return dict(sorted(errors.items(), key=lambda item: -item[1]))


def _quantized(proto: Any, source: ExportSource) -> Any:
    """The int8 form of a float model; `proto` itself stays as it is."""
    onnx, quantization = require("onnx"), require("onnxruntime.quantization")
    if source.calibration is None and source.learned is None:
        raise ValueError(
            "Expected calibration images for int8, which takes its ranges from them. Received: none"
        )
    excluded = [*_normalisations(proto, source.model), *_kept_nodes(proto, source)]
    images, options = source.calibration, _options()
    if source.learned is not None:
        ranges = learned_ranges(proto, source)
        options["TensorQuantOverrides"] = {
            name: [{"rmin": np.float32(low), "rmax": np.float32(high)}]
            for name, (low, high) in ranges.items()
        }
        if images is None:
            _check_complete(proto, set(ranges), excluded)
            # The quantizer wants some; what they show counts for nothing.
            height, width, channels = source.model.input_shape[1:]
            images = np.zeros((1, height or 64, width or 64, channels), np.float32)
    reader = _Reader(input_batches(source, images, _BATCH_SIZE))
    before, after = source.workspace / "float.onnx", source.workspace / "int8.onnx"
    onnx.save(proto, before)
    with quiet(), _without_advice():
        quantization.quantize_static(
            before,
            after,
            reader,
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=_QUANTIZED,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=excluded,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options=options,
        )
    result = onnx.load(after)
    before.unlink()
    after.unlink()
    return result


def _options() -> dict[str, Any]:
    # 256 steps are coarse for logits, and their product can give floats at no cost.
    return {"OpTypesToExcludeOutputQuantization": ["Gemm"]}


def _check_complete(proto: Any, known: set[str], excluded: list[str]) -> None:
    """Refuses learned ranges that do not reach all that is quantized."""
    for node in proto.graph.node:
        takes_part = node.op_type in _QUANTIZED and node.name not in excluded
        if takes_part and node.op_type != "Gemm" and node.output[0] not in known:
            raise ValueError(
                "Expected calibration images for int8. Received: none, and no learned range of "
                f"{node.output[0]}"
            )


class _Reader:
    """What ONNX Runtime asks for calibration images, batch by batch."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {IMAGE: batch}


@contextmanager
def _without_advice() -> Iterator[None]:
    """Hides the advice to prepare the model first: ONNX Runtime's optimizer has been over it."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _normalisations(proto: Any, model: keras.Model) -> Iterator[str]:
    """Names of the nodes of normalisations that are no part of a convolution."""
    kinds = (keras.layers.GroupNormalization, keras.layers.LayerNormalization)
    layers = {layer.name for layer in model._flatten_layers() if isinstance(layer, kinds)}
    constants = {value.name for value in proto.graph.initializer}
    for node in proto.graph.node:
        scales = node.op_type in _ELEMENTWISE and constants.intersection(node.input)
        if scales or layer_of(node.name) in layers:
            yield node.name


def _kept_nodes(proto: Any, source: ExportSource) -> list[str]:
    """Names of the nodes of the layers to keep, and of those that take in what they put out."""
    names, nodes = source.options.keep_float, list(proto.graph.node)
    check_kept_layers(names, source.model, {layer_of(node.name) for node in nodes})
    kept = [node for node in nodes if layer_of(node.name) in names]
    # In topological order, so that one pass finds all.
    wide = {output for node in kept for output in node.output}
    for node in nodes:
        if wide.intersection(node.input) and node not in kept:
            kept.append(node)
            if node.op_type in _PASSING:
                wide.update(node.output)
    return [node.name for node in kept]


#: Weights of a layer as their rounded values, and its activations as inputs of QuantizeLinear with
#: the constants that those take.
_Rounded = tuple[dict[str, np.ndarray], dict[str, tuple[Any, Any]]]


def _rounded_tensors(proto: Any, quantized: Any) -> dict[str, _Rounded]:
    """What the int8 model rounds, by layer."""
    onnx = require("onnx")
    constants = {value.name: value for value in quantized.graph.initializer}
    producers = {name: node for node in quantized.graph.node for name in node.output}
    tensors = {name for node in proto.graph.node for name in node.output}
    rounded: dict[str, _Rounded] = {}
    for node in quantized.graph.node:
        tensor = node.input[0] if node.input else ""
        # The name of a quantized weight is that of the float one and a suffix.
        weight = tensor.removesuffix("_quantized")
        layers = [layer_of(user.name) for user in proto.graph.node if weight in user.input[1:2]]
        if node.op_type == "QuantizeLinear" and tensor in tensors and tensor in producers:
            layer = layer_of(producers[tensor].name)
            scale, zero = constants[node.input[1]], constants[node.input[2]]
            rounded.setdefault(layer, ({}, {}))[1][tensor] = (scale, zero)
        elif node.op_type == "DequantizeLinear" and tensor in constants and layers:
            whole, scale = (onnx.numpy_helper.to_array(constants[name]) for name in node.input[:2])
            axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
            if scale.ndim:
                scale = scale.reshape([-1 if i == axis else 1 for i in range(whole.ndim)])
            for layer in layers:
                # Weights are quantized symmetrically: their zero point is 0.
                rounded.setdefault(layer, ({}, {}))[0][weight] = whole * scale
    return rounded


def _with_rounding(
    proto: Any, weights: dict[str, np.ndarray], activations: dict[str, tuple[Any, Any]]
) -> Any:
    """A copy of a float model with some tensors rounded."""
    onnx = require("onnx")
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    graph = model.graph
    for value in graph.initializer:
        if value.name in weights:
            array = weights[value.name].astype(np.float32)
            value.CopyFrom(onnx.numpy_helper.from_array(array, value.name))
    for tensor, (scale, zero) in activations.items():
        whole, back = f"{tensor}/whole", f"{tensor}/rounded"
        replace_input(graph.node, tensor, back)
        graph.initializer.extend([scale, zero])
        ends = [value for value in graph.output if value.name == tensor]
        index = next(i for i, node in enumerate(graph.node) if tensor in node.output) + 1
        constants = [scale.name, zero.name]
        make = onnx.helper.make_node
        graph.node.insert(index, make("DequantizeLinear", [whole, *constants], [back]))
        graph.node.insert(index, make("QuantizeLinear", [tensor, *constants], [whole]))
        for end in ends:
            end.name = back
    return model


def _end_before_softmax(proto: Any) -> None:
    """Makes what a last softmax takes in the model's output."""
    onnx = require("onnx")
    producers = {name: node for node in proto.graph.node for name in node.output}
    for value in proto.graph.output:
        node = producers[value.name]
        if node.op_type == "Softmax":
            value.CopyFrom(
                onnx.helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, None)
            )
