"""Model repositories and services around ONNX files and SavedModels, as export targets."""

from __future__ import annotations

import re
from pathlib import Path

from keras_resnet.export.onnx import convert as onnx
from keras_resnet.export.servers import saved_model
from keras_resnet.export.servers.kserve import write_kserve
from keras_resnet.export.servers.triton import write_triton
from keras_resnet.export.source import ExportSource


def write_triton_onnx(source: ExportSource, path: Path) -> None:
    """Writes a model repository of Triton with an ONNX file in it."""
    _triton(source, path, _onnx(source))


def write_triton_saved_model(source: ExportSource, path: Path) -> None:
    """Writes a model repository of Triton with a SavedModel in it."""
    _triton(source, path, _saved_model(source))


def write_kserve_onnx(source: ExportSource, path: Path) -> None:
    """Writes a service of KServe that runs an ONNX file in Triton."""
    _kserve(source, path, _onnx(source))


def write_kserve_saved_model(source: ExportSource, path: Path) -> None:
    """Writes a service of KServe that runs a SavedModel in TF Serving."""
    _kserve(source, path, _saved_model(source))


def _triton(source: ExportSource, path: Path, artifact: Path) -> None:
    sizes, version = source.options.serving_batch_sizes, source.options.version
    write_triton(artifact, _name(source), path, batch_sizes=sizes, version=version)


def _kserve(source: ExportSource, path: Path, artifact: Path) -> None:
    options = source.options
    write_kserve(
        artifact,
        _name(source),
        path,
        storage_uri=options.storage_uri,
        batch_sizes=options.serving_batch_sizes,
        version=options.version,
    )


def _name(source: ExportSource) -> str:
    """The network's name, as KServe allows it: it starts with a letter."""
    name = re.sub(r"[^a-z0-9]+", "-", source.model.name.lower()).strip("-")
    if not name[:1].isalpha():
        name = f"model-{name}"
    return name[:63].strip("-")


def _onnx(source: ExportSource) -> Path:
    path = source.workspace / "served.onnx"
    if not path.exists():
        onnx.write_float32(source, path)
    return path


def _saved_model(source: ExportSource) -> Path:
    path = source.workspace / "served" / "saved_model"
    if not path.exists():
        saved_model.write(source, path)
    return path
