"""Folders for KServe: an InferenceService and the model that it loads."""

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

#: The version of TF Serving that a SavedModel of this TensorFlow is served by.
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
    """Writes `directory/<name>`: an `InferenceService` of KServe, and the folder that it loads.

    A SavedModel is served by TF Serving, with its own protocol (v1), from `models/<version>`; an
    ONNX file by Triton, with the Open Inference Protocol (v2), from the model repository `models`.

    Args:
        artifact: an `.onnx` file, or a SavedModel: of several versions, the highest.
        name: of the service: as for `write_triton`, but a letter first, and no `_`.
        directory: where the folder goes; made if missing.
        storage_uri: where the cluster finds what is in `models`; by default `pvc://<name>/models`.
        batch_sizes: as for `write_triton`, like `version` and `overwrite`.
        version: of the model.
        overwrite: whether a folder that is there already may be replaced.

    Returns:
        The folder.

    Raises:
        ValueError: an argument is none of these, or the artifact cannot be read.
        FileExistsError: the folder is there already.
    """
    check_request(name, batch_sizes, version)
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        # What KServe's webhook admits.
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
    # KServe's own default is years older than what wrote the SavedModel.
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
