"""Arithmetic that an ONNX graph can do without."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from keras_resnet.export.onnx.fold import fold_scales

SCALE = np.array([0.5, 2.0, -3.0], np.float32)


def graph_of(
    shape: tuple[int, ...], transposed: bool, group: int = 1, shared: bool = False
) -> onnx.ModelProto:
    """`image` times a constant of that shape, maybe a transpose, and a padded convolution."""
    kernel = np.random.default_rng(0).normal(size=(6, 3 // group, 3, 3)).astype(np.float32)
    values = SCALE if np.prod(shape) == 3 else np.ones(shape, np.float32)
    constants = [
        numpy_helper.from_array(values.reshape(shape), "scale"),
        numpy_helper.from_array(kernel, "kernel"),
    ]
    nodes = [helper.make_node("Mul", ["image", "scale"], ["scaled"])]
    if transposed:
        nodes.append(helper.make_node("Transpose", ["scaled"], ["first"], perm=[0, 3, 1, 2]))
    last = "first" if transposed else "scaled"
    nodes.append(helper.make_node("Conv", [last, "kernel"], ["y"], pads=[1, 1, 1, 1], group=group))
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    if shared:
        outputs.append(helper.make_tensor_value_info("scaled", TensorProto.FLOAT, None))
    size = (2, 3, 3, 3)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, size)
    graph = helper.make_graph(nodes, "graph", [image], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def outputs_of(model: onnx.ModelProto) -> np.ndarray:
    image = np.random.default_rng(1).normal(size=(2, 3, 3, 3)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return np.asarray(session.run(["y"], {"image": image})[0])


@pytest.mark.parametrize(
    ("shape", "transposed", "group", "shared", "folded"),
    [
        ((1, 3, 1, 1), False, 1, False, True),
        ((3, 1, 1), False, 1, False, True),
        ((1, 1, 1, 3), True, 1, False, True),
        ((3,), True, 1, False, True),
        # Along the height or the width, not the channels, of which there are three as well.
        ((1, 1, 1, 3), False, 1, False, False),
        ((1, 1, 3, 1), True, 1, False, False),
        ((1, 3, 3, 3), False, 1, False, False),
        ((1, 3, 1, 1), False, 3, False, False),
        # Somebody else needs the product.
        ((1, 3, 1, 1), False, 1, True, False),
    ],
)
def test_scales_of_channels_go_into_the_kernel(
    shape: tuple[int, ...], transposed: bool, group: int, shared: bool, folded: bool
) -> None:
    model = graph_of(shape, transposed, group, shared)
    expected = outputs_of(model)
    fold_scales(model)
    assert ("Mul" not in [node.op_type for node in model.graph.node]) == folded
    np.testing.assert_allclose(outputs_of(model), expected, atol=1e-5)
