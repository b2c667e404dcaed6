"""Folding of the scale of the pixels' normalization into the first convolution."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from keras_resnet.export.onnx.graph import constants_of, onnx, replace_input


def fold_scales(proto: Any) -> None:
    """Fold a scale per input channel into the kernel of the convolution that follows.

    The convolution pads with zeros, which a scale leaves as they are, so that the outputs stay the
    same. The subtraction of the mean cannot be folded, as it would change the padding.
    """
    graph = proto.graph
    constants = constants_of(proto)
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    users = {name: node for node in graph.node for name in node.input}
    for node in [node for node in graph.node if node.op_type == "Mul"]:
        scales = [name for name in node.input if name in constants]
        chain = _to_convolution(node, users)
        if len(scales) != 1 or not chain or any(uses[step.output[0]] > 1 for step in chain[:-1]):
            continue
        kernel = constants.get(chain[-1].input[1])
        if kernel is None or uses[kernel.name] > 1:
            continue
        scale = onnx.numpy_helper.to_array(constants[scales[0]])
        permutation = [0, 1, 2, 3] if len(chain) == 2 else _attribute(chain[1], "perm")
        per_channel = [1] * 4
        per_channel[permutation[1]] = kernel.dims[1]
        # The kernel of a grouped convolution has the input channels of one group only.
        grouped = (_attribute(chain[-1], "group") or 1) > 1
        if grouped or np.broadcast_shapes(scale.shape, (1,) * 4) != tuple(per_channel):
            continue
        scaled = onnx.numpy_helper.to_array(kernel) * scale.reshape(1, -1, 1, 1)
        kernel.CopyFrom(onnx.numpy_helper.from_array(scaled, kernel.name))
        (before,) = (name for name in node.input if name != scales[0])
        replace_input(graph.node, node.output[0], before)
        graph.node.remove(node)
        if uses[scales[0]] == 1:
            graph.initializer.remove(constants[scales[0]])


def _to_convolution(node: Any, users: dict[str, Any]) -> list[Any]:
    """Return the node, any transpose after it, and the convolution after that; else nothing."""
    chain = [node]
    for kind in ("Transpose", "Conv"):
        following = users.get(chain[-1].output[0])
        if following is not None and following.op_type == kind:
            chain.append(following)
    return chain if chain[-1].op_type == "Conv" else []


def _attribute(node: Any, name: str) -> Any:
    found = [onnx.helper.get_attribute_value(item) for item in node.attribute if item.name == name]
    return found[0] if found else None
