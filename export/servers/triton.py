"""Triton model repositories, whose configuration is checked against the artifact."""

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

#: Microseconds that Triton waits for further requests to fill a batch.
_QUEUE_DELAY = 1000

#: Triton's platform and file name for artifacts, by their suffix.
_PLATFORMS = {
    ".onnx": ("onnxruntime_onnx", "model.onnx"),
    "": ("tensorflow_savedmodel", "model.savedmodel"),
}

#: Pattern of names that are valid for a folder and in a URL.
_NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")

#: Values of `inference.DataType` in Triton's model_config.proto, in the order of their numbers.
#: Strings are BYTES in requests, and STRING in configurations.
_DATA_TYPES = (
    *("INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64", "STRING"),
)

#: Triton's names of types that have other names in ONNX and TensorFlow.
_OTHER_NAMES = {"FLOAT16": "FP16", "HALF": "FP16", "FLOAT": "FP32", "DOUBLE": "FP64"}


class Tensor(NamedTuple):
    """Input or output of an artifact.

    Attributes:
        name: name of the tensor.
        data_type: Triton's name of the type, such as `"FP32"`.
        shape: shape, with -1 for sides of any length.
    """

    name: str
    data_type: str
    shape: tuple[int, ...]


class Interface(NamedTuple):
    """Inputs and outputs of an artifact."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def any_batch(self) -> bool:
        """Return whether all inputs and outputs take any batch size."""
        return all(tensor.shape[:1] == (-1,) for tensor in (*self.inputs, *self.outputs))


def interface_of(path: str | os.PathLike[str], signature: str = SIGNATURE) -> Interface:
    """Return the names, types and shapes of an artifact's inputs and outputs.

    Args:
        path: `.onnx` file, or directory of a SavedModel, of which the highest version is taken.
        signature: name of the signature of a SavedModel.

    Raises:
        ValueError: the artifact has another format, lacks the signature, or has a type that Triton
            does not support.
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
    """Write a model to a Triton model repository.

    The folder `<name>` gets `config.pbtxt` and a copy of the artifact, `<version>/model.onnx` or
    `<version>/model.savedmodel`. Triton merges requests into batches of up to the largest batch
    size, unless the artifact has a fixed batch size. All releases of Triton serve ONNX files, but
    not all of them serve SavedModels, of which Triton serves the signature `serving_default`.

    Args:
        artifact: `.onnx` file, or directory of a SavedModel, of which the highest version is taken.
        name: name of the model in requests: up to 63 lower-case letters, digits, `-` and `_`, with
            a letter or digit at both ends.
        directory: directory of the model repository; created if missing.
        batch_sizes: batch sizes that Triton prefers.
        version: version number of the model, at least 1.
        overwrite: whether to replace an existing model of this name.

    Returns:
        Path of the model's folder.

    Raises:
        ValueError: an argument is invalid, or the artifact cannot be read.
        FileExistsError: a model of this name exists, and `overwrite` is false.
    """
    check_request(name, batch_sizes, version)
    found = artifact_path(artifact)

    def make(folder: Path) -> None:
        fill(folder, found, name, batch_sizes, version)

    return write_folder(Path(directory) / name, overwrite, make)


def write_folder(destination: Path, overwrite: bool, make: Callable[[Path], None]) -> Path:
    """Let `make` fill a folder under a temporary name, then rename it to `destination`.

    Raises:
        FileExistsError: `destination` exists, and `overwrite` is false.
        ValueError: another process is working in the parent directory.
    """
    parent = destination.parent
    with held(parent), partial_directory(parent) as staging:
        if destination.exists() and not overwrite:
            raise FileExistsError(
                f"Expected the path of a new folder. Received: {destination}, which exists. Choose "
                "another name, or pass `overwrite=True`"
            )
        make(staging / destination.name)
        publish(staging, [destination.name])
    return destination


def check_triton(directory: str | os.PathLike[str]) -> None:
    """Compare the `config.pbtxt` of a model with the artifacts of all versions.

    Args:
        directory: the model's folder in the model repository.

    Raises:
        ValueError: there is no configuration or no version, the configuration has fields that this
            package does not write, or it differs from an artifact. The message names every
            difference.
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
            f"Expected a {CONFIG} that matches the artifact. Received: {directory}: "
            + "; ".join(wrong)
        )


def fill(folder: Path, found: Path, name: str, batch_sizes: Sequence[int], version: int) -> None:
    """Write the files of `write_triton` to a new folder, and check the configuration."""
    interface = interface_of(found)
    platform, file = _PLATFORMS[found.suffix if found.is_file() else ""]
    destination = folder / str(version) / file
    destination.parent.mkdir(parents=True)
    if found.is_dir():
        shutil.copytree(found, destination)
    else:
        shutil.copy2(found, destination)
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
    """Return the shape for Triton, without the batch dimension if Triton makes the batches."""
    return tensor.shape[1:] if max_batch_size > 0 else tensor.shape


def _differences(config: Any, artifact: Path) -> list[str]:
    """Return phrases about the differences between a configuration and an artifact."""
    try:
        interface = interface_of(artifact)
    except ValueError as error:
        return [str(error)]
    wrong, names = [], dict(enumerate(_DATA_TYPES))
    if config.max_batch_size > 0 and not interface.any_batch:
        wrong.append(f"max_batch_size: {config.max_batch_size}, but the batch size is fixed")
    for what, entries, tensors in (
        ("input", config.input, interface.inputs),
        ("output", config.output, interface.outputs),
    ):
        stated = {x.name: f"{names.get(x.data_type, x.data_type)} {list(x.dims)}" for x in entries}
        actual = {
            tensor.name: f"{tensor.data_type} {list(_dims(tensor, config.max_batch_size))}"
            for tensor in tensors
        }
        for name in sorted(stated.keys() | actual.keys()):
            here, there = stated.get(name, "missing"), actual.get(name, "missing")
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
    """Return Triton's name of a type of ONNX or TensorFlow."""
    known = _OTHER_NAMES.get(name, name)
    if known not in _DATA_TYPES[1:]:
        raise ValueError(
            f"Expected tensors of the types {', '.join(sorted(_DATA_TYPES[1:]))}. "
            f"Received: {path} with one of type {name}"
        )
    return known


def check_request(name: str, batch_sizes: Sequence[int], version: int) -> None:
    """Raise ValueError if an argument of `write_triton` is invalid."""
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


#: The fields of Triton's model_config.proto that are written here. `tritonclient` has all of them,
#: but needs an older protobuf than TensorFlow.
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
    """Return the class of `ModelConfig` messages, which protobuf reads and writes as text."""
    file = text_format.Parse(_MESSAGES, descriptor_pb2.FileDescriptorProto())
    types = file.enum_type.add(name="DataType")
    for number, name in enumerate(_DATA_TYPES):
        types.value.add(name=f"TYPE_{name}", number=number)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"{file.package}.ModelConfig")
    )
