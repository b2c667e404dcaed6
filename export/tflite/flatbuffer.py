"""TFLite models as objects of the file format: reading, changing and running them."""

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

#: NumPy dtypes by the numbers of the file format.
_DTYPES = {
    getattr(TensorType, name.upper()): np.dtype(name)
    for name in ("float32", "float16", "int8", "uint8", "int16", "int32", "int64")
}

_OPERATOR_NAMES = {number: name for name, number in vars(BuiltinOperator).items() if name.isupper()}


def parse(content: bytes) -> Any:
    """Return a TFLite model as objects."""
    return convert_bytearray_to_object(bytearray(content))


def serialize(model: Any) -> bytes:
    """Return the content of a file from the objects of `parse`."""
    return bytes(convert_object_to_bytearray(model))


def read(path: str | os.PathLike[str]) -> Any:
    """Return the model in a file as objects.

    Raises:
        ValueError: the file is not a TFLite model.
    """
    content = Path(path).read_bytes()
    if content[4:8] != b"TFL3":
        raise ValueError(f"Expected a TFLite file. Received: {path}, which has another format")
    return parse(content)


def builtin(model: Any, operator: Any) -> int:
    """Return the number of a built-in operator, which old files have in another field."""
    code = model.operatorCodes[operator.opcodeIndex]
    return max(int(code.builtinCode), int(code.deprecatedBuiltinCode))


def operator_name(model: Any, operator: Any) -> str:
    """Return the name of a built-in operator, such as `CONV_2D`."""
    number = builtin(model, operator)
    return _OPERATOR_NAMES.get(number, f"operator {number}")


def constant(model: Any, index: int) -> np.ndarray | None:
    """Return the values of a constant tensor; None if it is computed, or the index is -1."""
    if index < 0:
        return None
    tensor = model.subgraphs[0].tensors[index]
    data = model.buffers[tensor.buffer].data
    if data is None or not len(data) or tensor.type not in _DTYPES:
        return None
    values = np.asarray(data, np.uint8).view(_DTYPES[tensor.type])
    return values.reshape([] if tensor.shape is None else [int(side) for side in tensor.shape])


def set_constant(model: Any, tensor: Any, values: np.ndarray) -> None:
    """Replace the values of a constant tensor by others of its type."""
    model.buffers[tensor.buffer].data = np.frombuffer(values.tobytes(), np.uint8)


def append_tensor(model: Any, tensor: Any) -> int:
    """Add a tensor to the graph; return its index."""
    tensors = model.subgraphs[0].tensors
    tensors.append(tensor)
    return len(tensors) - 1


def append_constant(model: Any, values: np.ndarray, name: bytes) -> int:
    """Add a float32 constant to the graph; return the index of its tensor."""
    model.buffers.append(schema.BufferT())
    tensor = schema.TensorT()
    tensor.shape, tensor.type, tensor.name = np.array(values.shape, np.int32), 0, name
    tensor.buffer, tensor.shapeSignature = len(model.buffers) - 1, None
    set_constant(model, tensor, values.astype(np.float32))
    return append_tensor(model, tensor)


def new_operator(model: Any, number: int, version: int = 1) -> Any:
    """Return a new built-in operator, with a code of its own, that is not yet in the graph."""
    code = schema.OperatorCodeT()
    # The deprecated field holds numbers up to 127, enough for all operators that are added here.
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, number, version
    model.operatorCodes.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes) - 1
    return operator


def producers(model: Any) -> dict[int, Any]:
    """Return the operator that computes each tensor, by the tensor's index."""
    return {int(i): operator for operator in model.subgraphs[0].operators for i in operator.outputs}


def followers(model: Any) -> Callable[[Any], Any | None]:
    """Return a function that finds the only user of an operator's output.

    The function returns None if the output has no user, several users, or is one of the graph's.
    """
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
    """Yield the values of some tensors of a float model, for each batch of `size` images.

    The last batch is filled up with its last image.
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
