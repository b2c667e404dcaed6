"""TFLite in integers, and layers that stay in float."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.lite.python import convert, schema_py_generated as schema
from tensorflow.lite.python.optimize import calibrator
from tensorflow.lite.tools import flatbuffer_utils

from keras_resnet.export.source import ExportSource, check_kept_layers
from keras_resnet.networks.graph import inputs_of
from keras_resnet.support.quiet import quiet

_OPS = schema.BuiltinOperator
_FLOAT32 = schema.TensorType.FLOAT32


def parse(content: bytes) -> Any:
    """The flatbuffer of a TFLite model as objects."""
    return flatbuffer_utils.convert_bytearray_to_object(bytearray(content))


def serialize(model: Any) -> bytes:
    """The reverse of `parse`."""
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def builtin(model: Any, operator: Any) -> int:
    """Number of a built-in operator; files of old schemas have it in another field."""
    code = model.operatorCodes[operator.opcodeIndex]
    return max(int(code.builtinCode), int(code.deprecatedBuiltinCode))


def is_constant(model: Any, tensor: Any) -> bool:
    """Whether a tensor has its values in the file."""
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def append_constant(model: Any, values: np.ndarray, name: bytes) -> int:
    """Adds a float32 constant to a model; the index of its tensor."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.astype(np.float32).tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.shape, tensor.type = np.array(values.shape, np.int32), _FLOAT32
    tensor.buffer, tensor.name = len(model.buffers) - 1, name
    tensor.shapeSignature = None
    graph = model.subgraphs[0]
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


class LayerNames:
    """Finds the Keras layers that the operators of a converted model come from.

    Every layer opens a TensorFlow name scope, and the name of an operator's output tensor has the
    scopes of all that was fused into it.
    """

    def __init__(self, source: ExportSource) -> None:
        self.model = model = source.model
        self.order = {name: index for index, name in enumerate(_leaf_names(model))}
        names = getattr(model, "output_names", None) or list(self.order)[-1:]
        self._outputs = dict(zip(source.outputs, names, strict=False))
        # A scope that was opened before gets a number. Keras opens each to build a layer and again
        # to call it, so that `conv_1` is the layer `conv`, unless the model itself has no number.
        self._model_name = model.name
        self._numbered = True

    def of_output(self, name: str) -> str | None:
        """The layer that one of the signature's outputs comes from."""
        return self._outputs.get(name)

    def of_tensor(self, name: str) -> tuple[str, ...]:
        """The layers in a tensor's name, in the order of the network."""
        found = set()
        for part in name.split(";"):
            scopes = part.split("/")[:-1]
            if scopes and scopes[0] == self._model_name:
                self._numbered = False
            layers = [layer for scope in scopes if (layer := self._layer(scope))]
            found.update(layers[-1:])
        return tuple(sorted(found, key=self.order.__getitem__))

    def _layer(self, scope: str) -> str | None:
        choices = [re.sub(r"_\d+$", "", scope), scope]
        for choice in choices if self._numbered else reversed(choices):
            if choice in self.order:
                return choice
        return None

    def of_operators(self, model: Any) -> list[tuple[str, ...]]:
        """The layers of every operator of a flatbuffer, in its order; empty where none is known."""
        graph = model.subgraphs[0]
        ends = {end.tensorIndex: end.name.decode() for end in model.signatureDefs[0].outputs}
        for operator in reversed(graph.operators):
            at_end = builtin(model, operator) in (_OPS.QUANTIZE, _OPS.DEQUANTIZE)
            if at_end and operator.outputs[0] in ends:
                ends[operator.inputs[0]] = ends[operator.outputs[0]]
        found = []
        for operator in graph.operators:
            layers = self.of_tensor(graph.tensors[operator.outputs[0]].name.decode())
            if operator.outputs[0] in ends:
                # The converter calls these after the signature; their constants keep their names.
                parts = [graph.tensors[i] for i in operator.inputs if i >= 0]
                texts = [part.name.decode() for part in parts if is_constant(model, part)]
                last = self.of_output(ends[operator.outputs[0]])
                known = {last} if last in self.order else set()
                known.update(*(self.of_tensor(text) for text in texts), layers)
                layers = tuple(sorted(known, key=self.order.__getitem__))
            if builtin(model, operator) == _OPS.CONV_2D:
                layers = self._with_kernel(layers)
            found.append(layers)
        return found

    @functools.cached_property
    def _sources(self) -> dict[str, list[str]]:
        return inputs_of(self.model)

    def _with_kernel(self, layers: tuple[str, ...]) -> tuple[str, ...]:
        """Adds the convolution where an operator has only the names of what was fused into it.

        That is so of grouped and of dilated ones.
        """
        with_kernels = {layer.name for layer in self.model.layers if hasattr(layer, "kernel")}
        if with_kernels.intersection(layers) or isinstance(self.model, keras.Sequential):
            return layers
        chain, name = list(layers), next(iter(layers), None)
        while name is not None and name not in with_kernels:
            before = self._sources.get(name, ())
            name = before[0] if len(before) == 1 else None
            if name is not None:
                chain.append(name)
        if name is None:
            return layers
        return tuple(sorted(set(chain), key=self.order.__getitem__))


def _leaf_names(model: keras.Model) -> Iterator[str]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaf_names(layer)
        else:
            yield layer.name


def nodes_of(layers: Sequence[str], model: Any, names: LayerNames) -> list[str]:
    """Names of the output tensors of the operators that the layers became.

    Raises:
        ValueError: the network has no such layer, or the layer has no operator.
    """
    operators = list(zip(model.subgraphs[0].operators, names.of_operators(model), strict=True))
    exist = {layer for _, found in operators for layer in found}
    check_kept_layers(layers, names.model, exist)
    tensors = model.subgraphs[0].tensors
    return [
        tensors[operator.outputs[0]].name.decode()
        for operator, found in operators
        if set(found) & set(layers)
    ]


def quantized_int8(calibrated_: bytes, ends: Any, keep: list[str]) -> bytes:
    """Weights and activations in int8, per channel and per tensor.

    Args:
        calibrated_: from `ranges.with_ranges`.
        ends: TensorFlow type of the input and the outputs.
        keep: names of the output tensors of operators that stay in float.
    """
    with quiet():
        return bytes(
            convert.mlir_quantize(
                calibrated_,
                input_data_type=ends,
                output_data_type=ends,
                denylisted_nodes=keep or None,
            )
        )


def quantized_int16x8(calibrated_: bytes) -> bytes:
    """Weights in int8, activations in int16; what has no integer form stays in float.

    Args:
        calibrated_: from `ranges.with_ranges`; its ranges are used, so that no image is fed here.
    """
    with quiet():
        return bytes(
            calibrator.Calibrator(calibrated_).calibrate_and_quantize(
                lambda: iter(()),
                tf.float32,
                tf.float32,
                allow_float=True,
                activations_type=tf.int16,
                bias_type=tf.int64,
            )
        )


def with_float_operators(quantized: bytes, floating: bytes, keep: Sequence[str]) -> bytes:
    """Puts operators of a float model in the place of their int16x8 forms.

    TensorFlow's quantizer for int16 activations has no list of exceptions.

    Args:
        quantized: an int16x8 model with float ends.
        floating: the float model that it was made from.
        keep: names of the output tensors of the operators.
    """
    result, original = parse(quantized), parse(floating)
    splice = _Splice(result, original)
    source = original.subgraphs[0]
    by_name = {source.tensors[op.outputs[0]].name.decode(): op for op in source.operators}
    graph = result.subgraphs[0]
    operators, graph.operators = graph.operators, []
    for operator in operators:
        name = graph.tensors[operator.outputs[0]].name.decode().removesuffix("_int16")
        computes = builtin(result, operator) not in (_OPS.QUANTIZE, _OPS.DEQUANTIZE)
        # Others are in float already, or are shapes.
        in_int16 = graph.tensors[operator.outputs[0]].type == schema.TensorType.INT16
        if name in keep and computes and in_int16:
            splice.replace(operator, by_name[name])
        else:
            graph.operators.append(operator)
    return serialize(result)


class _Splice:
    """Appends float operators to a graph of integers."""

    def __init__(self, result: Any, original: Any) -> None:
        self.result, self.original = result, original
        self.graph, self.source = result.subgraphs[0], original.subgraphs[0]
        self.floats: dict[int, int] = {}

    def replace(self, operator: Any, floating: Any) -> None:
        """Appends `floating` for `operator`, with what it takes to go from and to integers."""
        new = copy.copy(floating)
        pairs = zip(operator.inputs, floating.inputs, strict=True)
        new.inputs = [self._input(here, there) for here, there in pairs]
        new.outputs, ends = [], []
        for here, there in zip(operator.outputs, floating.outputs, strict=True):
            new.outputs.append(self._float_twin(here, self.source.tensors[there].name))
            ends.append(unary(self.result, _OPS.QUANTIZE, new.outputs[-1], here))
        new.opcodeIndex = len(self.result.operatorCodes)
        self.result.operatorCodes.append(self.original.operatorCodes[floating.opcodeIndex])
        self.graph.operators += [new, *ends]

    def _input(self, here: int, there: int) -> int:
        if there < 0:
            return there
        tensor = self.source.tensors[there]
        if is_constant(self.original, tensor):
            constant = copy.copy(tensor)
            constant.buffer = len(self.result.buffers)
            self.result.buffers.append(self.original.buffers[tensor.buffer])
            return self._append(constant)
        if self.graph.tensors[here].type == tensor.type or here in self.floats:
            return self.floats.get(here, here)
        twin = self._float_twin(here, tensor.name)
        self.graph.operators.append(unary(self.result, _OPS.DEQUANTIZE, here, twin))
        return twin

    def _float_twin(self, here: int, name: bytes) -> int:
        twin = copy.copy(self.graph.tensors[here])
        twin.type, twin.quantization, twin.name = _FLOAT32, None, name
        self.floats[here] = self._append(twin)
        return self.floats[here]

    def _append(self, tensor: Any) -> int:
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1


def unary(model: Any, number: int, input_: int, output: int) -> Any:
    """A new operator `QUANTIZE` or `DEQUANTIZE` from one tensor to another."""
    code = schema.OperatorCodeT()
    # Version 2 takes int16 and int8; the old field holds numbers up to 127 only.
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, number, 2
    model.operatorCodes.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs, operator.outputs = [input_], [output]
    return operator
