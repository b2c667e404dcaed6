"""ONNX: the float32 graph that every ONNX artifact is made from, and its file.

tf2onnx translates the traced model, ONNX Runtime's own optimizer (its "basic" level, which only
writes standard operators) fuses what it left. Where a layer's TensorFlow form would leave stray
transposes or what ONNX has no operator for, another form of equal values is traced.
"""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_resnet.export.images import filled_up
from keras_resnet.export.metadata import into_onnx
from keras_resnet.export.model import ExportedModel
from keras_resnet.export.onnx.fold import fold_scales
from keras_resnet.export.onnx.graph import (
    KERNEL_OPERATORS,
    constants_of,
    inferred,
    layer_of,
    onnx,
    replace_input,
)
from keras_resnet.export.outputs import BATCH, IMAGE
from keras_resnet.export.tracing import CONVOLUTION, traced_as
from keras_resnet.support.extras import require
from keras_resnet.support.quiet import quiet

#: The newest opset for which tf2onnx still writes GlobalAveragePool; from 18 on it becomes
#: ReduceMean with a transpose. It has all that the artifacts need: per-channel QuantizeLinear came
#: with 13.
OPSET = 17


def write_float32(exported: ExportedModel, path: Path) -> None:
    """Writes a float32 ONNX file; see `finish` for what holds of it."""
    finish(float_model(exported), exported, path)


def float_model(exported: ExportedModel) -> Any:
    """The network as a float32 `onnx.ModelProto`.

    BatchNormalization is folded into the convolution before it. In the layout NHWC there is one
    transpose per image or feature map that goes in or out, in NCHW none; a `Flatten` of more than
    one position keeps one in both, as the weights behind it are in Keras' order. Names of nodes
    start with the name of their Keras layer.

    Raises:
        ValueError: the network needs an operator that ONNX does not have.
    """
    content = exported.cached("float.onnx", lambda: _float_model(exported).SerializeToString())
    return onnx.ModelProto.FromString(content)


def _float_model(exported: ExportedModel) -> Any:
    proto = _converted(exported)
    missing = {
        node.op_type
        for node in proto.graph.node
        if not onnx.defs.has(node.op_type, OPSET, node.domain)
    }
    if missing:
        raise ValueError(
            "Expected a network that ONNX's own operators can express. "
            f"Received: one that needs {', '.join(sorted(missing))}"
        )
    if exported.options.batch_size is None:
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = BATCH
    _name_after_layers(proto)
    proto = inferred(proto)
    _remove_empty_reshapes(proto)
    proto = _optimized(proto)
    fold_scales(proto)
    return proto


def finish(proto: Any, exported: ExportedModel, path: Path) -> None:
    """Completes an ONNX model, proves that it can be used, and writes it.

    Its input is called `image` and its outputs as `exported` says; the batch dimension is `batch`
    unless the options fix it. All shapes are inferred, strictly; `onnx.checker` accepts it; ONNX
    Runtime has loaded it. It carries what the model knows about itself.

    Args:
        proto: the `onnx.ModelProto`; it is changed.
        exported: what it was made from.
        path: the file to write.

    Raises:
        ValueError: the model cannot be used; the message has the cause.
    """
    proto = inferred(proto)
    layout = exported.options.layout
    proto.producer_name, proto.producer_version = "keras_resnet", ""
    proto.doc_string = (
        f"`{IMAGE}`: RGB pixels in [0, 255], {layout}; the graph normalises them itself. "
        f"Outputs: {', '.join(exported.outputs)}."
    )
    proto.graph.name = exported.model.name
    into_onnx(proto, exported.info, exported.options.layout)
    content = proto.SerializeToString()
    try:
        onnx.checker.check_model(proto, full_check=True)
        session(content)
    except Exception as error:
        # The checker's and the runtime's errors have bases of their own.
        raise ValueError(
            f"Expected a network that ONNX Runtime can run. Received: {exported.model.name!r}: "
            f"{error}"
        ) from error
    path.write_bytes(content)


def session(model: Any, optimized_path: Path | None = None) -> Any:
    """An ONNX Runtime session on the CPU.

    Args:
        model: a serialized model, or the path of one.
        optimized_path: where the model goes as ONNX Runtime has optimized it before it thinks of
            any processor.
    """
    onnxruntime = require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if optimized_path is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(optimized_path)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def input_batches(exported: ExportedModel, images: Any, size: int) -> Iterator[Any]:
    """Images `(n, height, width, channels)` in batches as an artifact takes them.

    `size` holds where the options do not fix it; the last batch of a fixed size is filled up.
    """
    fixed = exported.options.batch_size
    for start in range(0, len(images), fixed or size):
        batch = filled_up(images[start : start + (fixed or size)], fixed)
        yield batch.transpose(0, 3, 1, 2).copy() if exported.options.layout == "NCHW" else batch


def _converted(exported: ExportedModel) -> Any:
    """Return tf2onnx's conversion of the traced network."""
    tf2onnx = require("tf2onnx")
    frozen, names, maps = _frozen(exported)
    inputs, outputs = list(names)[:1], list(names)[1:]
    channels_first = exported.options.layout == "NCHW"
    # Graphs are cycles of few objects with large constants, which Python is slow to look for.
    gc.collect()
    with quiet(), _without_copies():
        proto, _ = tf2onnx.convert.from_graph_def(
            frozen,
            input_names=inputs,
            output_names=outputs,
            opset=OPSET,
            tensors_to_rename=names,
            inputs_as_nchw=inputs if channels_first else None,
            outputs_as_nchw=maps if channels_first else None,
        )
    gc.collect()
    return proto


def _frozen(exported: ExportedModel) -> tuple[Any, dict[str, str], list[str]]:
    """The traced network as a GraphDef, the names of its ends, and which of these are maps.

    The names are tensor -> name in ONNX, the image first.
    """
    tf2onnx = require("tf2onnx")
    function = tf.function(exported.serving_function(), input_signature=[exported.input_spec])
    with traced_as(exported.model, _FORMS):
        concrete = function.get_concrete_function()
    # Flattened, a dict's values are in the order of its sorted keys.
    ends = dict(zip(sorted(exported.outputs), concrete.outputs, strict=True))
    names = {f"{IMAGE}:0": IMAGE, **{ends[name].name: name for name in exported.outputs}}
    maps = [value.name for value in ends.values() if value.shape.rank == 4]
    with quiet():
        # Not `tf2onnx.convert.from_function`: it makes graph inputs of the constants that layers
        # such as Normalization hold.
        frozen = tf2onnx.tf_loader.from_function(concrete, list(names)[:1], list(names)[1:])
    return frozen, names, maps


@contextlib.contextmanager
def _without_copies() -> Iterator[None]:
    """Lets tf2onnx optimize the graph itself.

    By default it does so with a copy for each of two dozen passes, to go back to if one fails. Of a
    ResNet-50, that takes half the time and several gigabytes.
    """
    name = require("tf2onnx.constants").ENV_TF2ONNX_CATCH_ERRORS
    before = os.environ.get(name)
    os.environ[name] = "FALSE"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _group_normalization(layer: keras.Layer, call: Callable[..., Any], x: Any) -> Any:
    """Group normalization with the channels before the positions, so that one reshape makes groups.

    From NHWC, they would have to be brought together by a transpose and back by another one. The
    two that are written here meet those of the convolutions, and are dropped with them.
    """
    axis = layer.axis % x.shape.rank if isinstance(layer.axis, int) else None
    if x.shape.rank != 4 or axis != 3:
        return call(x)
    first = tf.transpose(x, (0, 3, 1, 2))
    channels, positions = first.shape[1], first.shape[2:]
    if positions.is_fully_defined():
        shape: Any = (-1, channels, *positions)
        size = channels // layer.groups * positions.num_elements()
        groups = tf.reshape(first, (-1, layer.groups, size))
    else:
        shape = tf.shape(first)
        groups = tf.reshape(first, tf.stack([shape[0], layer.groups, -1]))
    groups -= tf.reduce_mean(groups, -1, keepdims=True)
    variance = tf.reduce_mean(tf.square(groups), -1, keepdims=True)
    normal = tf.reshape(groups * tf.math.rsqrt(variance + layer.epsilon), shape)
    if layer.scale:
        normal *= tf.reshape(layer.gamma, (1, channels, 1, 1))
    if layer.center:
        normal += tf.reshape(layer.beta, (1, channels, 1, 1))
    return tf.transpose(normal, (0, 2, 3, 1))


def _flatten(layer: keras.Layer, call: Callable[..., Any], x: Any) -> Any:
    """Flatten without computing the shape where it is known."""
    known = x.shape[1:].is_fully_defined() and layer.data_format == "channels_last"
    return tf.reshape(x, (-1, x.shape[1:].num_elements())) if known else call(x)


_FORMS = (
    CONVOLUTION,
    (keras.layers.GroupNormalization, _group_normalization),
    (keras.layers.Flatten, _flatten),
)


def _name_after_layers(proto: Any) -> None:
    """Names what multiplies with a kernel after the layer whose kernel it is.

    tf2onnx numbers the convolutions that it makes anew; the kernels keep their layers' names.
    """
    constants = constants_of(proto)
    taken: set[str] = set()
    for node in proto.graph.node:
        if node.op_type in KERNEL_OPERATORS and node.input[1] in constants:
            name = node.name = f"{layer_of(node.input[1])}/{node.op_type}"
            while node.name in taken:
                node.name = f"{name}_{len(taken)}"
        elif node.op_type == "Transpose":
            # It carries the name of the layer that it was moved past.
            node.name = f"Transpose_{len(taken)}"
        taken.add(node.name)


def _remove_empty_reshapes(proto: Any) -> None:
    """Drops reshapes to the shape that is there already; `proto` has inferred shapes.

    tf2onnx turns transposes of a single channel or position into reshapes before it sees that some
    of them cancel each other.
    """
    graph = proto.graph
    shapes = {value.name: _dims(value) for value in (*graph.input, *graph.value_info)}
    outputs = {value.name for value in graph.output}
    for node in [node for node in graph.node if node.op_type == "Reshape"]:
        before, after = shapes.get(node.input[0]), shapes.get(node.output[0])
        if not before or not after or len(before) != len(after) or node.output[0] in outputs:
            continue
        # One dimension may be unknown: what the others leave over is the same for both.
        open_ends = [pair for pair in zip(before, after, strict=True) if None in pair]
        known = all(a == b for a, b in zip(before, after, strict=True) if None not in (a, b))
        if known and (not open_ends or open_ends == [(None, None)]):
            replace_input(graph.node, node.output[0], node.input[0])
            graph.node.remove(node)


def _dims(value: Any) -> list[int | None]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]


def _optimized(proto: Any) -> Any:
    """Use `Gemm` for a product and a sum, and pad in the pooling rather than before it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "optimized.onnx")
        session(proto.SerializeToString(), path)
        optimized = onnx.load(path)
    # It declares every domain of operators that it knows.
    used = {node.domain for node in optimized.graph.node}
    kept = [item for item in optimized.opset_import if item.domain in used]
    del optimized.opset_import[:]
    optimized.opset_import.extend(kept)
    return optimized
