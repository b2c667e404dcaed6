"""Writers of the export targets for Triton and KServe."""

from __future__ import annotations

import re
from pathlib import Path

from keras_resnet.export.model import ExportedModel
from keras_resnet.export.servers.kserve import write_kserve as kserve
from keras_resnet.export.servers.triton import write_triton as triton


def write_triton(artifact: str, exported: ExportedModel, path: Path) -> None:
    """Write a Triton model repository; `artifact` is `"onnx"` or `"saved_model"`."""
    options = exported.options
    triton(
        _served(artifact, exported),
        _name(exported),
        path,
        batch_sizes=options.serving_batch_sizes,
        version=options.version,
    )


def write_kserve(artifact: str, exported: ExportedModel, path: Path) -> None:
    """Write a KServe service; `artifact` is `"onnx"` (in Triton) or `"saved_model"`."""
    options = exported.options
    kserve(
        _served(artifact, exported),
        _name(exported),
        path,
        storage_uri=options.storage_uri,
        batch_sizes=options.serving_batch_sizes,
        version=options.version,
    )


def _name(exported: ExportedModel) -> str:
    """Return the network's name in the characters that KServe allows, with a letter first."""
    name = re.sub(r"[^a-z0-9]+", "-", exported.model.name.lower()).strip("-")
    if not name[:1].isalpha():
        name = f"model-{name}"
    return name[:63].strip("-")


def _served(artifact: str, exported: ExportedModel) -> Path:
    """Return the path of the artifact in the workspace, where it is written once."""
    # Imported here, as each of the two modules needs packages that the other does not need.
    if artifact == "onnx":
        from keras_resnet.export.onnx.convert import write_float32 as write

        path = exported.workspace / "served.onnx"
    else:
        from keras_resnet.export.servers.saved_model import write

        path = exported.workspace / "served" / "saved_model"
    if not path.exists():
        write(exported, path)
    return path
