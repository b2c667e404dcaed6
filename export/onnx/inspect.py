"""Inspection of ONNX files: operators, and the layers that compute in float."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from keras_resnet.export.onnx.graph import KERNEL_OPERATORS, layer_of, onnx


def operators(path: Path) -> dict[str, int]:
    """Count the operators of a file, the most frequent first.

    Operators of another domain than ONNX's own have it before their name: `com.microsoft.Gelu`.
    """
    nodes = _nodes(path)
    names = (f"{node.domain}.{node.op_type}".lstrip(".") for node in nodes)
    return dict(Counter(names).most_common())


def float_layers(path: Path) -> tuple[str, ...]:
    """Keras layers whose convolution or matrix product has float operands, in the file's order.

    Of an int8 file that this package wrote, they are those that were kept in float. Other people's
    files give what their nodes are called up to the first slash.
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
    """The model in a file up to what its last dense layer gets, serialized.

    Raises:
        ValueError: it has no dense layer.
    """
    proto = onnx.load(path)
    dense = [node for node in proto.graph.node if node.op_type in ("Gemm", "MatMul")]
    if not dense:
        raise ValueError("it has no dense layer (Gemm or MatMul), before which it could end")
    del proto.graph.output[:]
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(dense[-1].input[0]))
    return bytes(proto.SerializeToString())


def _nodes(path: Path) -> list[Any]:
    return list(onnx.load(path, load_external_data=False).graph.node)
