"""Static quantization of ONNX models to int8.

Weights are int8 per channel, activations are uint8 per tensor: the types that x86 processors
multiply fastest. Weights use only 7 bits (ONNX Runtime's `reduce_range`), as processors without
VNNI add two products in 16 bits, which could overflow with 8 bits. One file is then right on all
processors.

Ranges of activations are their smallest and largest values on the calibration images. Narrower
ranges, by percentile or entropy, agreed no better with the float network on the digits example, and
would need all activations in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np

from keras_resnet.compression.fusion import fused_groups
from keras_resnet.export.model import ExportedModel, check_kept_layers
from keras_resnet.export.onnx.convert import finish, float_model, input_batches
from keras_resnet.export.onnx.graph import (
    ELEMENTWISE,
    KERNEL_OPERATORS,
    constants_of,
    group_norms,
    layer_of,
    onnx,
)
from keras_resnet.export.outputs import IMAGE
from keras_resnet.support.extras import require
from keras_resnet.support.quiet import quiet

#: Small, as the activations of a large network need much memory.
_BATCH_SIZE = 4

#: Operators that only move or clip values: after a layer in float, they and their users are float.
_PASSING = (
    *("Relu", "Clip", "LeakyRelu", "MaxPool", "AveragePool", "Pad"),
    *("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose"),
)

#: Operators whose output has the range of their input.
_KEEPING_RANGES = (
    *("AveragePool", "Flatten", "Identity", "MaxPool", "Pad", "Reshape", "Squeeze", "Transpose"),
    "Unsqueeze",
)

#: Operators that are quantized. Softmax stays float, for exact probabilities.
_QUANTIZED = [
    *KERNEL_OPERATORS,
    *_PASSING,
    *("Add", "Mul", "Concat", "Sigmoid", "GlobalAveragePool"),
]


def write_int8(exported: ExportedModel, path: Path) -> None:
    """Write an int8 ONNX file (QuantizeLinear and DequantizeLinear around float operators).

    Input and outputs are float32. The following stay in float: the softmax, the logits,
    normalizations that are not folded into a convolution (one scale per tensor would be too coarse
    for their scales per channel), and the layers in `options.keep_float`. The output of such a
    layer is not quantized either, so that the operators that use it compute in float, too.

    Raises:
        ValueError: there are no ranges of activations, or `keep_float` names a layer that the
            network does not have.
    """
    finish(_quantized(float_model(exported), exported), exported, path)


def _quantized(proto: Any, exported: ExportedModel) -> Any:
    """Return the int8 form of a float model; `proto` is not changed."""
    quantization = require("onnxruntime.quantization")
    if exported.calibration is None and exported.learned is None:
        raise ValueError(
            "Expected calibration images for int8, to measure the ranges of activations. "
            "Received: none. Pass images like those the network will see"
        )
    excluded = [*_normalizations(proto, exported.model), *_kept_nodes(proto, exported)]
    images = exported.calibration
    # 256 steps are coarse for logits, and the product before them can return floats at no cost.
    options: dict[str, Any] = {"OpTypesToExcludeOutputQuantization": ["Gemm"]}
    if exported.learned is not None:
        ranges = _learned_ranges(proto, exported)
        options["TensorQuantOverrides"] = {
            name: [{"rmin": np.float32(low), "rmax": np.float32(high)}]
            for name, (low, high) in ranges.items()
        }
        if images is None:
            _check_complete(proto, set(ranges), excluded)
            # The quantizer needs an image, but uses the learned ranges.
            height, width, channels = exported.model.input_shape[1:]
            images = np.zeros((1, height or 64, width or 64, channels), np.float32)
    batches = input_batches(exported, images, _BATCH_SIZE)
    inputs = ({IMAGE: batch} for batch in batches)
    before, after = exported.workspace / "float.onnx", exported.workspace / "int8.onnx"
    onnx.save(proto, before)
    with quiet(), _without_advice():
        quantization.quantize_static(
            before,
            after,
            SimpleNamespace(get_next=lambda: next(inputs, None)),
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


def _learned_ranges(proto: Any, exported: ExportedModel) -> dict[str, tuple[float, float]]:
    """Return the ranges of tensors that learned ranges give, or that follow from them.

    Args:
        proto: float `onnx.ModelProto` with nodes named after their layers.
        exported: the exported model, which has learned ranges.
    """
    learned = exported.learned or {}
    constants = constants_of(proto)
    place = {x: name for name, group in fused_groups(exported.model).items() for x in group}
    ranges = {IMAGE: (0.0, 255.0)}
    for node in proto.graph.node:
        before = [ranges[name] for name in node.input if name in ranges]
        layer = place.get(layer_of(node.name), "")
        if node.op_type in ("Sigmoid", "Softmax"):
            found = (0.0, 1.0)
        elif before and node.op_type in ELEMENTWISE and node.input[1] in constants:
            # The pixels' normalization; `fold_scales` may have removed its product.
            values = onnx.numpy_helper.to_array(constants[node.input[1]])
            ends = [ELEMENTWISE[node.op_type](np.float32(end), values) for end in before[0]]
            found = (float(np.min(ends)), float(np.max(ends)))
        elif before and node.op_type in _KEEPING_RANGES:
            low, high = before[0]
            found = (min(low, 0.0), max(high, 0.0)) if node.op_type == "Pad" else (low, high)
        elif layer in learned:
            # Also the tensor before a ReLU, which ONNX Runtime does not quantize.
            found = learned[layer]
        else:
            continue
        ranges[node.output[0]] = found
    return ranges


def _check_complete(proto: Any, known: set[str], excluded: list[str]) -> None:
    """Raise ValueError if a tensor that is quantized has no learned range."""
    for node in proto.graph.node:
        quantized = node.op_type in _QUANTIZED and node.name not in excluded
        if quantized and node.op_type != "Gemm" and node.output[0] not in known:
            raise ValueError(
                "Expected calibration images for int8. Received: none, and no learned range of "
                f"{node.output[0]}. Pass images like those the network will see"
            )


@contextmanager
def _without_advice() -> Iterator[None]:
    """Hide the advice to optimize the model first, within the context: it is optimized already."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _normalizations(proto: Any, model: keras.Model) -> Iterator[str]:
    """Yield the names of the nodes of normalizations that are not part of a convolution."""
    layers, constants = group_norms(model), constants_of(proto)
    for node in proto.graph.node:
        scales = node.op_type in ELEMENTWISE and constants.keys() & set(node.input)
        if scales or layer_of(node.name) in layers:
            yield node.name


def _kept_nodes(proto: Any, exported: ExportedModel) -> list[str]:
    """Return the names of the nodes of the layers to keep in float, and of those after them."""
    names, nodes = exported.options.keep_float, list(proto.graph.node)
    check_kept_layers(names, exported.model, {layer_of(node.name) for node in nodes})
    kept = [node for node in nodes if layer_of(node.name) in names]
    # Nodes are in topological order, so that one pass finds all.
    wide = {output for node in kept for output in node.output}
    for node in nodes:
        if wide.intersection(node.input) and node not in kept:
            kept.append(node)
            if node.op_type in _PASSING:
                wide.update(node.output)
    return [node.name for node in kept]
