"""Directories for KServe: an InferenceService and its model."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from keras_resnet.export.options import check_storage_uri
from keras_resnet.export.runtime import artifact_path
from keras_resnet.export.servers.triton import check_request, fill, interface_of, write_folder

SERVICE = "inference-service.yaml"

#: Version of TF Serving for SavedModels of the supported TensorFlow.
TF_SERVING_VERSION = "2.21.0"


def write_kserve(
    artifact: str | os.PathLike[str],
    name: str,
    directory: str | os.PathLike[str],
    *,
    storage_uri: str | None = None,
    batch_sizes: Sequence[int] = (1, 4, 16),
    version: int = 1,
    overwrite: bool = False,
) -> Path:
    """Write the directory `<name>` with an InferenceService of KServe and the model that it loads.

    TF Serving serves a SavedModel with its own protocol (v1) from `models/<version>`. Triton serves
    an ONNX file with the Open Inference Protocol (v2) from the model repository `models`.

    Args:
        artifact: `.onnx` file, or directory of a SavedModel, of which the highest version is taken.
        name: name of the service: up to 63 lower-case letters, digits and `-`, a letter first.
        directory: parent directory; created if missing.
        storage_uri: address where the cluster finds the content of `models`; by default
            `pvc://<name>/models`.
        batch_sizes: batch sizes that Triton prefers, for an ONNX file.
        version: version number of the model, at least 1.
        overwrite: whether to replace an existing directory.

    Returns:
        Path of the new directory.

    Raises:
        ValueError: an argument is invalid, or the artifact cannot be read.
        FileExistsError: the directory exists, and `overwrite` is false.
    """
    check_request(name, batch_sizes, version)
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        # KServe's webhook admits only these names.
        raise ValueError(
            "Expected a `name` of lower-case letters, digits and `-` that starts with a letter and "
            f"does not end with `-`. Received: {name!r}"
        )
    uri = f"pvc://{name}/models" if storage_uri is None else storage_uri
    check_storage_uri(uri)
    found = artifact_path(artifact)

    def make(folder: Path) -> None:
        if found.suffix == ".onnx":
            fill(folder / "models" / name, found, name, batch_sizes, version)
        else:
            interface_of(found)
            shutil.copytree(found, folder / "models" / str(version))
        text = _inference_service(name, uri, found.suffix == ".onnx")
        (folder / SERVICE).write_text(text, encoding="utf-8")

    return write_folder(Path(directory) / name, overwrite, make)


def _inference_service(name: str, uri: str, onnx: bool) -> str:
    kind, protocol, runtime = "tensorflow", "v1", "kserve-tensorflow-serving"
    # KServe's default version is years older than the TensorFlow that wrote the SavedModel.
    version = f'\n      runtimeVersion: "{TF_SERVING_VERSION}"'
    if onnx:
        kind, protocol, runtime, version = "onnx", "v2", "kserve-tritonserver", ""
    return f"""apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: "{name}"
spec:
  predictor:
    model:
      modelFormat:
        name: {kind}
      protocolVersion: {protocol}
      runtime: {runtime}{version}
      storageUri: "{uri}"
"""
