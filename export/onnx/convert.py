"""Conversion to the float32 ONNX graph that every ONNX artifact is made from.

tf2onnx converts the traced model, and ONNX Runtime's optimizer fuses operators (on its level
"basic", which writes standard operators only). Layers whose usual TensorFlow form would leave
superfluous transposes, or needs operators that ONNX lacks, are traced in another form with equal
values.
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

#: Newest opset for which tf2onnx writes GlobalAveragePool: from 18 on, it writes ReduceMean with a
#: transpose. Per-channel QuantizeLinear, which int8 needs, exists since opset 13.
OPSET = 17


def write_float32(exported: ExportedModel, path: Path) -> None:
    """Write a float32 ONNX file, which `finish` checks."""
    finish(float_model(exported), exported, path)


def float_model(exported: ExportedModel) -> Any:
    """Return the network as a float32 `onnx.ModelProto`.

    BatchNormalization is folded into the convolution before it. In the layout NHWC, there is one
    transpose for each input and each feature map in the output; in NCHW, there is none. A `Flatten`
    of more than one position needs a transpose in both, as the weights after it have Keras' order.
    Names of nodes start with the name of their Keras layer.

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
            "Expected a network that standard ONNX operators can express. "
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
    """Complete an ONNX model, check it, and write it to a file.

    The input is called `image`, the outputs have the names in `exported`, and the batch dimension
    is `batch` unless the options fix it. The shapes of all tensors are inferred. The file has the
    metadata of the model. `onnx.checker` and ONNX Runtime have to accept it.

    Args:
        proto: the `onnx.ModelProto`, which is changed in place.
        exported: the exported model.
        path: path of the new file.

    Raises:
        ValueError: the checker or ONNX Runtime refuses the model.
    """
    proto = inferred(proto)
    layout = exported.options.layout
    proto.producer_name, proto.producer_version = "keras_resnet", ""
    proto.doc_string = (
        f"`{IMAGE}`: RGB pixels in [0, 255], {layout}; the graph normalizes them itself. "
        f"Outputs: {', '.join(exported.outputs)}."
    )
    proto.graph.name = exported.model.name
    into_onnx(proto, exported.info, exported.options.layout)
    content = proto.SerializeToString()
    try:
        onnx.checker.check_model(proto, full_check=True)
        session(content)
    except Exception as error:
        # The errors of the checker and of the runtime have no base class in common.
        raise ValueError(
            f"Expected a network that ONNX Runtime can run. Received: {exported.model.name!r}: "
            f"{error}"
        ) from error
    path.write_bytes(content)


def session(model: Any, optimized_path: Path | None = None) -> Any:
    """Return an ONNX Runtime session on the CPU.

    Args:
        model: serialized model, or the path of its file.
        optimized_path: path to write the model to after those optimizations of ONNX Runtime that
            do not depend on the processor; `None`: do not write it.
    """
    onnxruntime = require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if optimized_path is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(optimized_path)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def input_batches(exported: ExportedModel, images: Any, size: int) -> Iterator[Any]:
    """Yield images `(n, height, width, channels)` in batches with the artifact's layout.

    The batch size is that of the options, or `size` if they have none. With a fixed batch size, the
    last batch is filled up.
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
    # A graph is a reference cycle with few objects but large constants: free earlier ones now.
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
    """Return the traced network as a GraphDef, its inputs and outputs, and its feature maps.

    Inputs and outputs are a dictionary from the tensor's name to the name in ONNX, the image first;
    feature maps are names of tensors.
    """
    tf2onnx = require("tf2onnx")
    function = tf.function(exported.serving_function(), input_signature=[exported.input_spec])
    with traced_as(exported.model, _FORMS):
        concrete = function.get_concrete_function()
    # TensorFlow flattens a dictionary in the order of its sorted keys.
    ends = dict(zip(sorted(exported.outputs), concrete.outputs, strict=True))
    names = {f"{IMAGE}:0": IMAGE, **{ends[name].name: name for name in exported.outputs}}
    maps = [value.name for value in ends.values() if value.shape.rank == 4]
    with quiet():
        # `tf2onnx.convert.from_function` would turn the constants of layers such as Normalization
        # into inputs of the graph.
        frozen = tf2onnx.tf_loader.from_function(concrete, list(names)[:1], list(names)[1:])
    return frozen, names, maps


@contextlib.contextmanager
def _without_copies() -> Iterator[None]:
    """Let tf2onnx optimize the graph in place within the context.

    By default, it copies the graph before each of two dozen passes, to restore it if one fails. For
    a ResNet-50, the copies take half of the time and several gigabytes.
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
    """Compute group normalization with the channels first, where one reshape makes the groups.

    The two transposes here cancel those of the neighboring convolutions, so that tf2onnx removes
    them. With the channels last, two more would remain.
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
    """Flatten to a constant shape where the shape is known."""
    known = x.shape[1:].is_fully_defined() and layer.data_format == "channels_last"
    return tf.reshape(x, (-1, x.shape[1:].num_elements())) if known else call(x)


_FORMS = (
    CONVOLUTION,
    (keras.layers.GroupNormalization, _group_normalization),
    (keras.layers.Flatten, _flatten),
)


def _name_after_layers(proto: Any) -> None:
    """Rename the nodes with a kernel after the layer of the kernel.

    tf2onnx gives numbers to the convolutions that it creates, but their kernels keep the names of
    their layers.
    """
    constants = constants_of(proto)
    taken: set[str] = set()
    for node in proto.graph.node:
        if node.op_type in KERNEL_OPERATORS and node.input[1] in constants:
            name = node.name = f"{layer_of(node.input[1])}/{node.op_type}"
            while node.name in taken:
                node.name = f"{name}_{len(taken)}"
        elif node.op_type == "Transpose":
            # A transpose has the name of the layer that tf2onnx moved it past.
            node.name = f"Transpose_{len(taken)}"
        taken.add(node.name)


def _remove_empty_reshapes(proto: Any) -> None:
    """Remove reshapes that change nothing; the shapes of `proto` have been inferred.

    tf2onnx turns transposes of a single channel or position into reshapes before it removes
    transposes that cancel each other.
    """
    graph = proto.graph
    shapes = {value.name: _dims(value) for value in (*graph.input, *graph.value_info)}
    outputs = {value.name for value in graph.output}
    for node in [node for node in graph.node if node.op_type == "Reshape"]:
        before, after = shapes.get(node.input[0]), shapes.get(node.output[0])
        if not before or not after or len(before) != len(after) or node.output[0] in outputs:
            continue
        # One dimension may be unknown: it is the same in both, if all others are.
        unknown = [pair for pair in zip(before, after, strict=True) if None in pair]
        equal = all(a == b for a, b in zip(before, after, strict=True) if None not in (a, b))
        if equal and (not unknown or unknown == [(None, None)]):
            replace_input(graph.node, node.output[0], node.input[0])
            graph.node.remove(node)


def _dims(value: Any) -> list[int | None]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]


def _optimized(proto: Any) -> Any:
    """Return the model after ONNX Runtime's optimizer, which fuses MatMul and Add, for example."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "optimized.onnx")
        session(proto.SerializeToString(), path)
        optimized = onnx.load(path)
    # ONNX Runtime declares all of its operator domains, used or not.
    used = {node.domain for node in optimized.graph.node}
    kept = [item for item in optimized.opset_import if item.domain in used]
    del optimized.opset_import[:]
    optimized.opset_import.extend(kept)
    return optimized
