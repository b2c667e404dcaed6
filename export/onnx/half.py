"""Conversion of ONNX models to float16, with float32 input and outputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.export.model import ExportedModel
from keras_resnet.export.onnx.convert import finish, float_model, input_batches, session
from keras_resnet.export.onnx.graph import ELEMENTWISE, group_norms, layer_of, onnx, replace_input
from keras_resnet.export.outputs import IMAGE
from keras_resnet.support.extras import require

#: Largest float16 number.
_LARGEST = float(np.finfo(np.float16).max)

#: Number of images that are checked for activations that overflow.
_IMAGES = 2


def write_float16(exported: ExportedModel, path: Path) -> None:
    """Write an ONNX file whose weights and activations are float16.

    Input and outputs stay float32. So do computations that exceed the range of float16: the
    normalization of the pixels, the statistics of group and layer normalization, and the softmax.

    Raises:
        ValueError: a weight exceeds the range of float16, or an activation does on the first
            calibration images or, without any, on noise. The message names the layer.
    """
    float16 = require("onnxruntime.transformers.float16")
    onnx_model = require("onnxruntime.transformers.onnx_model")
    proto = float_model(exported)
    kept = set(_kept_nodes(proto, exported))
    _refuse_overflow(proto, kept, exported)
    half = float16.convert_float_to_float16(
        proto,
        keep_io_types=True,
        op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, "Softmax"],
        node_block_list=sorted(kept),
    )
    _drop_repeated_casts(half)
    # The converter casts to float16 and back between two nodes that both stay float32.
    model = onnx_model.OnnxModel(half)
    model.remove_cascaded_cast_nodes()
    model.topological_sort()
    _drop_idle_casts(half)
    finish(half, exported, path)


def _kept_nodes(proto: Any, exported: ExportedModel) -> Iterator[str]:
    """Yield the names of the nodes that stay float32, besides softmax."""
    layers, pixels = group_norms(exported.model), {IMAGE}
    for node in proto.graph.node:
        if node.op_type in ELEMENTWISE and pixels.intersection(node.input):
            pixels.update(node.output)
            yield node.name
        elif layer_of(node.name) in layers:
            yield node.name


def _drop_repeated_casts(proto: Any) -> None:
    """Remove repeated casts: the converter writes one for each node that uses the same tensor."""
    casts: set[str] = set()
    for index in reversed(range(len(proto.graph.node))):
        node = proto.graph.node[index]
        if node.op_type == "Cast" and node.output[0] in casts:
            del proto.graph.node[index]
        elif node.op_type == "Cast":
            casts.add(node.output[0])


def _drop_idle_casts(proto: Any) -> None:
    """Remove casts to the type that their input has already."""
    graph = proto.graph
    del graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    outputs = {value.name for value in graph.output}
    for cast in [node for node in graph.node if node.op_type == "Cast"]:
        before, after = cast.input[0], cast.output[0]
        if types.get(before) != types[after]:
            continue
        graph.node.remove(cast)
        # An output of the graph keeps its name: rename the tensor before the cast.
        old, new = (before, after) if after in outputs else (after, before)
        replace_input(graph.node, old, new)
        for node in graph.node:
            node.output[:] = [new if name == old else name for name in node.output]


def _refuse_overflow(proto: Any, kept: set[str], exported: ExportedModel) -> None:
    """Raise ValueError if a weight or an activation exceeds the range of float16."""
    weights = {
        value.name: float(np.abs(onnx.numpy_helper.to_array(value)).max(initial=0))
        for value in proto.graph.initializer
        if value.data_type == onnx.TensorProto.FLOAT
    }
    halves = [
        node for node in proto.graph.node if node.name not in kept and node.op_type != "Softmax"
    ]
    for node in halves:
        _check("weights", node, max((weights.get(name, 0.0) for name in node.input), default=0.0))
    peaks = _activation_peaks(proto, [name for node in halves for name in node.output], exported)
    for node in halves:
        _check("activations", node, max(peaks.get(name, 0.0) for name in node.output))


def _check(what: str, node: Any, peak: float) -> None:
    if not peak <= _LARGEST:
        raise ValueError(
            f"Expected {what} of at most {_LARGEST:g}, the largest float16 number. "
            f"Received: {peak:g} in the layer {layer_of(node.name)!r}. Export to `onnx` instead of "
            "`onnx-float16`"
        )


def _activation_peaks(proto: Any, tensors: list[str], exported: ExportedModel) -> dict[str, float]:
    """Return the largest absolute value of each float tensor on a few images."""
    probe = onnx.shape_inference.infer_shapes(proto)
    wanted = set(tensors) - {value.name for value in probe.graph.output}
    probe.graph.output.extend(
        value
        for value in probe.graph.value_info
        if value.name in wanted and value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    )
    images = exported.calibration
    if images is None:
        height, width, channels = exported.model.input_shape[1:]
        shape = (_IMAGES, height or 64, width or 64, channels)
        images = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    running = session(probe.SerializeToString())
    names = [value.name for value in probe.graph.output]
    peaks: dict[str, float] = {}
    for batch in input_batches(exported, images[:_IMAGES], 1):
        for name, value in zip(names, running.run(names, {IMAGE: batch}), strict=True):
            # Float32 has NaN, too, so that it is no overflow of float16.
            peak = float(np.nan_to_num(np.abs(value), posinf=np.inf).max(initial=0))
            peaks[name] = max(peaks.get(name, 0.0), peak)
    return peaks
