"""Learned ranges of activations, for ONNX Runtime's quantizer."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_resnet.compression.fusion import fused_groups
from keras_resnet.export.model import ExportedModel
from keras_resnet.export.onnx.graph import ELEMENTWISE, constants_of, layer_of, onnx
from keras_resnet.export.outputs import IMAGE

#: Operators whose output has the range of their input.
PASSING = (
    *("AveragePool", "Flatten", "Identity", "MaxPool", "Pad", "Reshape", "Squeeze", "Transpose"),
    "Unsqueeze",
)


def learned_ranges(proto: Any, exported: ExportedModel) -> dict[str, tuple[float, float]]:
    """The ranges of tensors of a float model as far as the learned ones tell.

    Args:
        proto: a float `onnx.ModelProto` with nodes named after their layers.
        exported: what it was made from; its model has learned ranges.
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
            # Of the pixels' normalisation; the product may have become part of the first kernel.
            values = onnx.numpy_helper.to_array(constants[node.input[1]])
            ends = [ELEMENTWISE[node.op_type](np.float32(end), values) for end in before[0]]
            found = (float(np.min(ends)), float(np.max(ends)))
        elif before and node.op_type in PASSING:
            low, high = before[0]
            found = (min(low, 0.0), max(high, 0.0)) if node.op_type == "Pad" else (low, high)
        elif layer in learned:
            # Before a ReLU, too: there, ONNX Runtime does not quantize.
            found = learned[layer]
        else:
            continue
        ranges[node.output[0]] = found
    return ranges
