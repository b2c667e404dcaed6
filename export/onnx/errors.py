"""Which layers of a network int8 hurts most, in ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_resnet.export.model import ExportedModel
from keras_resnet.export.onnx.convert import float_model, input_batches, session
from keras_resnet.export.onnx.graph import (
    constants_of,
    layer_of,
    onnx,
    producers_of,
    replace_input,
)
from keras_resnet.export.onnx.quantize import BATCH_SIZE, quantized
from keras_resnet.export.outputs import IMAGE

#: Weights of a layer as their rounded values, and its activations as inputs of QuantizeLinear with
#: the constants that those take.
_Rounded = tuple[dict[str, np.ndarray], dict[str, tuple[Any, Any]]]


def layer_errors(exported: ExportedModel, images: np.ndarray) -> dict[str, float]:
    """How much int8 disturbs the network in each layer, the worst layer first.

    One layer at a time has its weights and what it puts out rounded as in the int8 file, all others
    are float; the error is that of the network's outputs (before a softmax, which would hide it),
    root mean square, relative to theirs. Comparing the activations of the two networks instead, as
    `onnxruntime.quantization.qdq_loss_debug` does, shows where errors arrive, which is everywhere
    behind the layer that makes them. Takes one run of the network per layer.

    Args:
        exported: has the calibration images, and the layers that are kept in float: these are left
            out.
        images: what to measure on, float32 `(n, height, width, channels)`, RGB in [0, 255].

    Returns:
        Names of Keras layers and errors: 0.01 means one percent.

    Raises:
        ValueError: as for `write_int8`.
    """
    proto = float_model(exported)
    rounded = _rounded_tensors(proto, quantized(proto, exported))
    _end_before_softmax(proto)
    batches = list(input_batches(exported, images, BATCH_SIZE))

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


def _rounded_tensors(proto: Any, integers: Any) -> dict[str, _Rounded]:
    """What the int8 model rounds, by layer."""
    constants, producers = constants_of(integers), producers_of(integers)
    tensors = producers_of(proto)
    rounded: dict[str, _Rounded] = {}
    for node in integers.graph.node:
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
    producers = producers_of(proto)
    for value in proto.graph.output:
        node = producers[value.name]
        if node.op_type == "Softmax":
            value.CopyFrom(
                onnx.helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, None)
            )
