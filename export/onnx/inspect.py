"""Inspection of ONNX files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from keras_resnet.export.onnx.graph import KERNEL_OPERATORS, layer_of, onnx


def operators(path: Path) -> dict[str, int]:
    """Count the operators of a file by name, the most frequent first.

    The names of operators outside of ONNX's standard include their domain: `com.microsoft.Gelu`.
    """
    nodes = _nodes(path)
    names = (f"{node.domain}.{node.op_type}".lstrip(".") for node in nodes)
    return dict(Counter(names).most_common())


def float_layers(path: Path) -> tuple[str, ...]:
    """Return the names of the Keras layers with a kernel that are computed in float.

    In a file of another package, they are the names of the nodes up to the first slash.
    """
    nodes = _nodes(path)
    integers = {
        output for node in nodes if node.op_type == "DequantizeLinear" for output in node.output
    }
    names = (
        layer_of(node.name)
        for node in nodes
        if node.op_type in KERNEL_OPERATORS and not integers.issuperset(node.input[:2])
    )
    return tuple(dict.fromkeys(names))


def dense_input_model(path: Path) -> bytes:
    """Return a file's model without its last dense layer, serialized.

    Raises:
        ValueError: the file has no dense layer.
    """
    proto = onnx.load(path)
    dense = [node for node in proto.graph.node if node.op_type in ("Gemm", "MatMul")]
    if not dense:
        raise ValueError("it has no dense layer (Gemm or MatMul) to take the features before")
    del proto.graph.output[:]
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(dense[-1].input[0]))
    return bytes(proto.SerializeToString())


def _nodes(path: Path) -> list[Any]:
    return list(onnx.load(path, load_external_data=False).graph.node)
