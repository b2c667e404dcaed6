"""Quantization of TFLite models, with operators that stay in float."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_resnet.export.tflite import flatbuffer
from keras_resnet.export.tflite.private import (
    BuiltinOperator as _Ops,
    Calibrator,
    TensorType,
    mlir_quantize,
)
from keras_resnet.support.quiet import quiet


def quantized_int8(content: bytes, ends: Any, keep: list[str]) -> bytes:
    """Return a model with int8 weights per channel and int8 activations per tensor.

    Args:
        content: float model from `ranges.with_ranges`.
        ends: TensorFlow type of the input and the outputs.
        keep: names of the output tensors of operators that stay in float.
    """
    with quiet():
        return bytes(
            mlir_quantize(
                content,
                input_data_type=ends,
                output_data_type=ends,
                denylisted_nodes=keep or None,
            )
        )


def quantized_int16x8(content: bytes) -> bytes:
    """Return a model with int8 weights and int16 activations.

    Operators without an integer form stay in float.

    Args:
        content: float model from `ranges.with_ranges`; its ranges replace calibration images.
    """
    with quiet():
        return bytes(
            Calibrator(content).calibrate_and_quantize(
                lambda: iter(()),
                tf.float32,
                tf.float32,
                allow_float=True,
                activations_type=tf.int16,
                bias_type=tf.int64,
            )
        )


def with_float_operators(quantized: bytes, floating: bytes, keep: Sequence[str]) -> bytes:
    """Replace the int16x8 forms of operators by their float forms.

    TensorFlow's quantizer for int16 activations cannot skip operators.

    Args:
        quantized: int16x8 model with float input and outputs.
        floating: float model that it was made from.
        keep: names of the output tensors of the operators.
    """
    result, original = flatbuffer.parse(quantized), flatbuffer.parse(floating)
    splice = _Splice(result, original)
    tensors = original.subgraphs[0].tensors
    by_name = {tensors[op.outputs[0]].name.decode(): op for op in original.subgraphs[0].operators}
    graph = result.subgraphs[0]
    operators, graph.operators = graph.operators, []
    for operator in operators:
        output = graph.tensors[operator.outputs[0]]
        name = output.name.decode().removesuffix("_int16")
        casts = flatbuffer.builtin(result, operator) in (
            _Ops.QUANTIZE,
            _Ops.DEQUANTIZE,
        )
        # Other types of outputs are float already, or are shapes.
        if name in keep and not casts and output.type == TensorType.INT16:
            splice.replace(operator, by_name[name])
        else:
            graph.operators.append(operator)
    return flatbuffer.serialize(result)


class _Splice:
    """Insertion of float operators into an integer model."""

    def __init__(self, result: Any, original: Any) -> None:
        self._result, self._original = result, original
        self._graph, self._tensors = result.subgraphs[0], original.subgraphs[0].tensors
        self._floats: dict[int, int] = {}

    def replace(self, operator: Any, floating: Any) -> None:
        """Append `floating` in place of `operator`, with casts from and to integers."""
        new = copy.copy(floating)
        pairs = zip(operator.inputs, floating.inputs, strict=True)
        new.inputs = [self._input(here, there) for here, there in pairs]
        new.outputs, ends = [], []
        for here, there in zip(operator.outputs, floating.outputs, strict=True):
            new.outputs.append(self._float_twin(here, self._tensors[there].name))
            ends.append(self._cast(_Ops.QUANTIZE, new.outputs[-1], here))
        new.opcodeIndex = len(self._result.operatorCodes)
        self._result.operatorCodes.append(self._original.operatorCodes[floating.opcodeIndex])
        self._graph.operators += [new, *ends]

    def _input(self, here: int, there: int) -> int:
        if there < 0:
            return there
        tensor = self._tensors[there]
        if flatbuffer.constant(self._original, there) is not None:
            twin = copy.copy(tensor)
            twin.buffer = len(self._result.buffers)
            self._result.buffers.append(self._original.buffers[tensor.buffer])
            return flatbuffer.append_tensor(self._result, twin)
        if self._graph.tensors[here].type == tensor.type or here in self._floats:
            return self._floats.get(here, here)
        index = self._float_twin(here, tensor.name)
        self._graph.operators.append(self._cast(_Ops.DEQUANTIZE, here, index))
        return index

    def _float_twin(self, here: int, name: bytes) -> int:
        twin = copy.copy(self._graph.tensors[here])
        twin.type, twin.quantization, twin.name = TensorType.FLOAT32, None, name
        self._floats[here] = flatbuffer.append_tensor(self._result, twin)
        return self._floats[here]

    def _cast(self, kind: int, input_: int, output: int) -> Any:
        # Version 2 of both casts supports int16.
        operator = flatbuffer.new_operator(self._result, kind, version=2)
        operator.inputs, operator.outputs = [input_], [output]
        return operator
