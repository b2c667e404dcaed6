"""Model repositories and services around ONNX files and SavedModels, as export targets."""

from __future__ import annotations

import re
from pathlib import Path

from keras_resnet.export.model import ExportedModel
from keras_resnet.export.servers.kserve import write_kserve as kserve
from keras_resnet.export.servers.triton import write_triton as triton


def write_triton(artifact: str, exported: ExportedModel, path: Path) -> None:
    """Writes a model repository of Triton with an artifact, `"onnx"` or `"saved_model"`, in it."""
    options = exported.options
    triton(
        _served(artifact, exported),
        _name(exported),
        path,
        batch_sizes=options.serving_batch_sizes,
        version=options.version,
    )


def write_kserve(artifact: str, exported: ExportedModel, path: Path) -> None:
    """Writes a service of KServe: `"onnx"` runs in Triton, `"saved_model"` in TF Serving."""
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
    """The network's name, as KServe allows it: it starts with a letter."""
    name = re.sub(r"[^a-z0-9]+", "-", exported.model.name.lower()).strip("-")
    if not name[:1].isalpha():
        name = f"model-{name}"
    return name[:63].strip("-")


def _served(artifact: str, exported: ExportedModel) -> Path:
    """The artifact in the workspace, which is made once."""
    # Each of these needs packages that the other one does not.
    if artifact == "onnx":
        from keras_resnet.export.onnx.convert import write_float32 as write

        path = exported.workspace / "served.onnx"
    else:
        from keras_resnet.export.servers.saved_model import write

        path = exported.workspace / "served" / "saved_model"
    if not path.exists():
        write(exported, path)
    return path
