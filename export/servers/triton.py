"""Model repositories of Triton, made of artifacts and checked against them."""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import (  # type: ignore[import-untyped]
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
)
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from keras_resnet.export.outputs import SIGNATURE
from keras_resnet.export.runtime import artifact_path
from keras_resnet.support.checks import is_integer
from keras_resnet.support.extras import require
from keras_resnet.support.files import held, partial_directory, publish

CONFIG = "config.pbtxt"

#: Microseconds that Triton waits for further requests to fill up a batch.
_QUEUE_DELAY = 1000

#: Kinds of artifacts by suffix: Triton's platform, and what it calls the file.
_PLATFORMS = {
    ".onnx": ("onnxruntime_onnx", "model.onnx"),
    "": ("tensorflow_savedmodel", "model.savedmodel"),
}

#: Names that are fit for a folder and a URL.
_NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")

#: `inference.DataType` of Triton's model_config.proto, in the order of its numbers. Triton calls
#: text BYTES in requests, and STRING in configurations.
_DATA_TYPES = (
    *("INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64", "STRING"),
)

#: What ONNX and TensorFlow call otherwise.
_OTHER_NAMES = {"FLOAT16": "FP16", "HALF": "FP16", "FLOAT": "FP32", "DOUBLE": "FP64"}


class Tensor(NamedTuple):
    """An input or output of an artifact, with Triton's word for its type, such as `"FP32"`."""

    name: str
    data_type: str
    #: -1 where any size is taken.
    shape: tuple[int, ...]


class Interface(NamedTuple):
    """The inputs and outputs of an artifact, as its file says."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def any_batch(self) -> bool:
        """Whether the first side of every input and output is free."""
        return all(tensor.shape[:1] == (-1,) for tensor in (*self.inputs, *self.outputs))


def interface_of(path: str | os.PathLike[str], signature: str = SIGNATURE) -> Interface:
    """Names, types and shapes of an artifact's inputs and outputs; those of outputs sorted by name.

    Args:
        path: an `.onnx` file, or a SavedModel: of several versions, the highest.
        signature: of a SavedModel.

    Raises:
        ValueError: it is neither, has no such signature, or has a type that Triton does not know.
    """
    found = artifact_path(path)
    if found.suffix == ".onnx":
        return _of_onnx(found)
    if found.is_dir():
        return _of_saved_model(found, signature)
    raise ValueError(f"Expected an `.onnx` file or a SavedModel. Received: {path}")


def write_triton(
    artifact: str | os.PathLike[str],
    name: str,
    directory: str | os.PathLike[str],
    *,
    batch_sizes: Sequence[int] = (1, 4, 16),
    version: int = 1,
    overwrite: bool = False,
) -> Path:
    """Writes `directory/<name>`, a model of a Triton model repository.

    It has `config.pbtxt` and `<version>/model.onnx` or `<version>/model.savedmodel`, a copy of the
    artifact. Triton merges requests into batches of up to the largest batch size, unless the
    artifact's own batch size is fixed. Not every release of Triton brings TensorFlow: ONNX runs on
    all of them. There it is `serving_default` of a SavedModel that is served.

    Args:
        artifact: an `.onnx` file, or a SavedModel: of several versions, the highest.
        name: what the server calls the model: up to 63 lower-case letters, digits, `-` and `_`.
        directory: the model repository; made if missing.
        batch_sizes: sizes of batches that Triton prefers.
        version: of the model, at least 1.
        overwrite: whether a model of this name that is there already may be replaced.

    Returns:
        The model's folder.

    Raises:
        ValueError: an argument is none of these, or the artifact cannot be read.
        FileExistsError: a model of this name is there already.
    """
    check_request(name, batch_sizes, version)
    found = artifact_path(artifact)

    def make(folder: Path) -> None:
        fill(folder, found, name, batch_sizes, version)

    return write_folder(Path(directory) / name, overwrite, make)


def write_folder(destination: Path, overwrite: bool, make: Callable[[Path], None]) -> Path:
    """Makes a folder under another name, then gives it its own.

    Raises:
        FileExistsError: something is there that may not be replaced.
        ValueError: another process is at work in the folder around it.
    """
    parent = destination.parent
    with held(parent), partial_directory(parent) as staging:
        if destination.exists() and not overwrite:
            raise FileExistsError(
                f"Expected a new folder. Received: {destination}, which exists. Choose another "
                "name, or pass `overwrite=True`"
            )
        make(staging / destination.name)
        publish(staging, [destination.name])
    return destination


def check_triton(directory: str | os.PathLike[str]) -> None:
    """Compares the `config.pbtxt` of a model with all of its versions.

    Args:
        directory: the model's folder inside the model repository.

    Raises:
        ValueError: there is no configuration or no version, the configuration has fields that this
            package does not write, or it says something else than an artifact. The message names
            every difference.
    """
    directory = Path(directory)
    try:
        text = (directory / CONFIG).read_text(encoding="utf-8")
        config = text_format.Parse(text, _model_config()())
    except (OSError, text_format.ParseError) as error:
        raise ValueError(
            f"Expected a Triton model with a {CONFIG} as `write_triton` writes it. "
            f"Received: {directory}: {error}"
        ) from error
    versions = sorted(folder for folder in directory.iterdir() if folder.name.isdigit())
    wrong = [] if versions else ["there is no version of the model"]
    if config.name != directory.name:
        wrong.append(f"name: {config.name!r} in a folder called {directory.name!r}")
    files = dict(_PLATFORMS.values())
    if config.platform not in files:
        wrong.append(f"platform: {config.platform!r}")
    else:
        for version in versions:
            wrong += _differences(config, version / files[config.platform])
    if wrong:
        raise ValueError(
            f"Expected a {CONFIG} that says what the artifact does. Received: {directory}: "
            + "; ".join(wrong)
        )


def fill(folder: Path, found: Path, name: str, batch_sizes: Sequence[int], version: int) -> None:
    """Writes a model of a repository into an empty place, and checks it; see `write_triton`."""
    interface = interface_of(found)
    platform, file = _PLATFORMS[found.suffix if found.is_file() else ""]
    target = folder / str(version) / file
    target.parent.mkdir(parents=True)
    if found.is_dir():
        shutil.copytree(found, target)
    else:
        shutil.copy2(found, target)
    config = _model_config()(name=name, platform=platform)
    if interface.any_batch:
        config.max_batch_size = max(batch_sizes)
        config.dynamic_batching.preferred_batch_size.extend(sorted(set(batch_sizes)))
        config.dynamic_batching.max_queue_delay_microseconds = _QUEUE_DELAY
    for tensors, entries in ((interface.inputs, config.input), (interface.outputs, config.output)):
        for tensor in tensors:
            entries.add(
                name=tensor.name,
                data_type=_DATA_TYPES.index(tensor.data_type),
                dims=_dims(tensor, config.max_batch_size),
            )
    (folder / CONFIG).write_text(text_format.MessageToString(config), encoding="utf-8")
    check_triton(folder)


def _dims(tensor: Tensor, max_batch_size: int) -> tuple[int, ...]:
    """Return the shape for Triton: that of one element where it makes the batches."""
    return tensor.shape[1:] if max_batch_size > 0 else tensor.shape


def _differences(config: Any, artifact: Path) -> list[str]:
    """Return sentences about what differs between a configuration and an artifact."""
    try:
        interface = interface_of(artifact)
    except ValueError as error:
        return [str(error)]
    wrong, names = [], dict(enumerate(_DATA_TYPES))
    if config.max_batch_size > 0 and not interface.any_batch:
        wrong.append(f"max_batch_size: {config.max_batch_size} of a fixed batch size")
    for what, entries, tensors in (
        ("input", config.input, interface.inputs),
        ("output", config.output, interface.outputs),
    ):
        said = {x.name: f"{names.get(x.data_type, x.data_type)} {list(x.dims)}" for x in entries}
        true = {
            tensor.name: f"{tensor.data_type} {list(_dims(tensor, config.max_batch_size))}"
            for tensor in tensors
        }
        for name in sorted(said.keys() | true.keys()):
            here, there = said.get(name, "missing"), true.get(name, "missing")
            if here != there:
                wrong.append(f"{what} {name!r}: {here}, in {artifact.name} {there}")
    return wrong


def _of_onnx(path: Path) -> Interface:
    onnx = require("onnx")
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:
        raise ValueError(f"Expected an ONNX file. Received: {path}: {error}") from error
    constants = {constant.name for constant in graph.initializer}

    def tensor(value: Any) -> Tensor:
        kind = value.type.tensor_type
        name = onnx.TensorProto.DataType.Name(kind.elem_type)
        sides = (side.dim_value if side.HasField("dim_value") else -1 for side in kind.shape.dim)
        return Tensor(value.name, _type(name, path), tuple(sides))

    inputs = tuple(tensor(value) for value in graph.input if value.name not in constants)
    return Interface(inputs, _by_name(map(tensor, graph.output)))


def _of_saved_model(path: Path, signature: str) -> Interface:
    try:
        content = (path / "saved_model.pb").read_bytes()
        (graph,) = saved_model_pb2.SavedModel.FromString(content).meta_graphs
    except Exception as error:
        raise ValueError(f"Expected a SavedModel. Received: {path}: {error}") from error
    if signature not in graph.signature_def:
        raise ValueError(
            f"Expected a SavedModel with the signature `{signature}`. "
            f"Received: {path} with {sorted(graph.signature_def)}"
        )

    def tensors(ends: Mapping[str, Any]) -> Iterable[Tensor]:
        for name, end in ends.items():
            kind = types_pb2.DataType.Name(end.dtype).removeprefix("DT_")
            sides = tuple(side.size for side in end.tensor_shape.dim)
            yield Tensor(name, _type(kind, path), sides)

    found = graph.signature_def[signature]
    return Interface(_by_name(tensors(found.inputs)), _by_name(tensors(found.outputs)))


def _by_name(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    return tuple(sorted(tensors, key=lambda tensor: tensor.name))


def _type(name: str, path: Path) -> str:
    """Triton's word for a type of ONNX or TensorFlow."""
    known = _OTHER_NAMES.get(name, name)
    if known not in _DATA_TYPES[1:]:
        raise ValueError(
            f"Expected tensors of the types {', '.join(sorted(_DATA_TYPES[1:]))}. "
            f"Received: {path} with one of type {name}"
        )
    return known


def check_request(name: str, batch_sizes: Sequence[int], version: int) -> None:
    """Raises a `ValueError` if one of these is not as `write_triton` says."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            "Expected a `name` of up to 63 lower-case letters, digits, `-` and `_`, with a letter "
            f"or digit at both ends. Received: {name!r}"
        )
    if not batch_sizes or not all(is_integer(number) for number in (version, *batch_sizes)):
        raise ValueError(
            "Expected `version` and at least one of `batch_sizes` as integers of at least 1. "
            f"Received: version={version!r}, batch_sizes={batch_sizes!r}"
        )


#: What is written of Triton's model_config.proto. `tritonclient`, which has all of it, wants an
#: older protobuf than TensorFlow has.
_MESSAGES = """
name: "keras_resnet/triton.proto" package: "keras_resnet.triton" syntax: "proto3"
message_type { name: "ModelInput"
  field { name: "name" number: 1 type: TYPE_STRING }
  field { name: "data_type" number: 2 type: TYPE_ENUM type_name: ".keras_resnet.triton.DataType" }
  field { name: "dims" number: 4 type: TYPE_INT64 label: LABEL_REPEATED } }
message_type { name: "ModelOutput"
  field { name: "name" number: 1 type: TYPE_STRING }
  field { name: "data_type" number: 2 type: TYPE_ENUM type_name: ".keras_resnet.triton.DataType" }
  field { name: "dims" number: 3 type: TYPE_INT64 label: LABEL_REPEATED } }
message_type { name: "ModelDynamicBatching"
  field { name: "preferred_batch_size" number: 1 type: TYPE_INT32 label: LABEL_REPEATED }
  field { name: "max_queue_delay_microseconds" number: 2 type: TYPE_UINT64 } }
message_type { name: "ModelConfig"
  field { name: "name" number: 1 type: TYPE_STRING }
  field { name: "platform" number: 2 type: TYPE_STRING }
  field { name: "max_batch_size" number: 4 type: TYPE_INT32 }
  field { name: "input" number: 5 type: TYPE_MESSAGE label: LABEL_REPEATED
    type_name: ".keras_resnet.triton.ModelInput" }
  field { name: "output" number: 6 type: TYPE_MESSAGE label: LABEL_REPEATED
    type_name: ".keras_resnet.triton.ModelOutput" }
  field { name: "dynamic_batching" number: 11 type: TYPE_MESSAGE
    type_name: ".keras_resnet.triton.ModelDynamicBatching" } }
"""


@functools.cache
def _model_config() -> Any:
    """The class of `ModelConfig` messages, by which protobuf writes and reads the text."""
    file = text_format.Parse(_MESSAGES, descriptor_pb2.FileDescriptorProto())
    types = file.enum_type.add(name="DataType")
    for number, name in enumerate(_DATA_TYPES):
        types.value.add(name=f"TYPE_{name}", number=number)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"{file.package}.ModelConfig")
    )
