"""TFLite models as objects of the file format: read, walked, added to and run in parts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.export.images import filled_up
from keras_resnet.export.tflite.private import (
    BuiltinOperator,
    TensorType,
    convert_bytearray_to_object,
    convert_object_to_bytearray,
    schema,
)
from keras_resnet.support.cores import usable_cores
from keras_resnet.support.extras import require
from keras_resnet.support.quiet import quiet

#: NumPy's types by the file format's numbers, for tensors that hold numbers.
_DTYPES = {
    getattr(TensorType, name.upper()): np.dtype(name)
    for name in ("float32", "float16", "int8", "uint8", "int16", "int32", "int64")
}

_OPERATOR_NAMES = {number: name for name, number in vars(BuiltinOperator).items() if name.isupper()}


def parse(content: bytes) -> Any:
    """A TFLite model as objects."""
    return convert_bytearray_to_object(bytearray(content))


def serialize(model: Any) -> bytes:
    """The reverse of `parse`."""
    return bytes(convert_object_to_bytearray(model))


def read(path: str | os.PathLike[str]) -> Any:
    """The model in a file as objects.

    Raises:
        ValueError: the file is no TFLite model.
    """
    content = Path(path).read_bytes()
    if content[4:8] != b"TFL3":
        raise ValueError(f"Expected a TFLite file. Received: {path}, which is something else")
    return parse(content)


def builtin(model: Any, operator: Any) -> int:
    """Number of a built-in operator; files of old schemas have it in another field."""
    code = model.operatorCodes[operator.opcodeIndex]
    return max(int(code.builtinCode), int(code.deprecatedBuiltinCode))


def operator_name(model: Any, operator: Any) -> str:
    """Name of a built-in operator, such as `CONV_2D`."""
    number = builtin(model, operator)
    return _OPERATOR_NAMES.get(number, f"operator {number}")


def constant(model: Any, index: int) -> np.ndarray | None:
    """The values of a tensor in its shape; None if it is computed, or there is none (-1)."""
    if index < 0:
        return None
    tensor = model.subgraphs[0].tensors[index]
    data = model.buffers[tensor.buffer].data
    if data is None or not len(data) or tensor.type not in _DTYPES:
        return None
    values = np.asarray(data, np.uint8).view(_DTYPES[tensor.type])
    return values.reshape([] if tensor.shape is None else [int(side) for side in tensor.shape])


def set_constant(model: Any, tensor: Any, values: np.ndarray) -> None:
    """Gives a tensor other values, of its own type."""
    model.buffers[tensor.buffer].data = np.frombuffer(values.tobytes(), np.uint8)


def append_tensor(model: Any, tensor: Any) -> int:
    """Adds a tensor to the graph; its index."""
    tensors = model.subgraphs[0].tensors
    tensors.append(tensor)
    return len(tensors) - 1


def append_constant(model: Any, values: np.ndarray, name: bytes) -> int:
    """Adds a float32 constant to the graph; the index of its tensor."""
    model.buffers.append(schema.BufferT())
    tensor = schema.TensorT()
    tensor.shape, tensor.type, tensor.name = np.array(values.shape, np.int32), 0, name
    tensor.buffer, tensor.shapeSignature = len(model.buffers) - 1, None
    set_constant(model, tensor, values.astype(np.float32))
    return append_tensor(model, tensor)


def new_operator(model: Any, number: int, version: int = 1) -> Any:
    """A built-in operator of a kind that is new to the model, not yet in its graph."""
    code = schema.OperatorCodeT()
    # The old field holds numbers up to 127 only, which all of ours are.
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, number, version
    model.operatorCodes.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes) - 1
    return operator


def producers(model: Any) -> dict[int, Any]:
    """The operator that computes a tensor, by the tensor's index."""
    return {int(i): operator for operator in model.subgraphs[0].operators for i in operator.outputs}


def followers(model: Any) -> Callable[[Any], Any | None]:
    """Finds the only operator that takes in what another one puts out; None: there is no one."""
    graph = model.subgraphs[0]
    uses = Counter(int(i) for operator in graph.operators for i in operator.inputs)
    uses.update(int(i) for i in graph.outputs)
    users = {int(i): operator for operator in graph.operators for i in operator.inputs}

    def after(operator: Any) -> Any | None:
        index = int(operator.outputs[0])
        return users.get(index) if uses[index] == 1 else None

    return after


def tensor_values(
    model: Any, tensors: Sequence[int], images: np.ndarray, size: int
) -> Iterator[list[np.ndarray]]:
    """Return the values that LiteRT computes in some tensors of a float model.

    For one batch of `size` images after the other; the last is filled up with its last image.
    """
    graph = model.subgraphs[0]
    before = graph.outputs, model.signatureDefs
    graph.outputs, model.signatureDefs = list(tensors), None
    content = serialize(model)
    graph.outputs, model.signatureDefs = before
    interpreter_class = require("ai_edge_litert.interpreter").Interpreter
    with quiet():
        interpreter = interpreter_class(model_content=content, num_threads=usable_cores())
        index = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(index, (size, *images.shape[1:]))
        interpreter.allocate_tensors()
    for start in range(0, len(images), size):
        interpreter.set_tensor(index, filled_up(images[start : start + size], size))
        interpreter.invoke()
        yield [interpreter.get_tensor(end["index"]) for end in interpreter.get_output_details()]
