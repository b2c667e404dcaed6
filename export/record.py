"""What an export directory holds already, so that the same export goes on where it ended."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnet.export.calibration import ImageSet
from keras_resnet.export.report import ArtifactReport, ExportReport
from keras_resnet.export.signature import ExportOptions

#: Written after every target; a whole export has a page and a card besides.
REPORT_FILE = "export.json"

_PACKAGES = (
    "keras-resnets",
    "keras",
    "tensorflow",
    "ai-edge-litert",
    "tf2onnx",
    "onnx",
    "onnxruntime",
)


def versions() -> dict[str, str]:
    """Those of the packages that take part, as far as they are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def fingerprint(
    model: keras.Model,
    calibration: ImageSet | None,
    verification: ImageSet,
    options: ExportOptions,
) -> str:
    """A hash of everything that artifacts and their figures depend on."""
    known = hashlib.sha256()
    settings = {"options": dataclasses.asdict(options), "versions": versions()}
    known.update(json.dumps(settings, sort_keys=True).encode())
    known.update(model.to_json().encode())
    arrays = [*model.get_weights(), verification.images, verification.labels]
    arrays += [None if calibration is None else calibration.images]
    for array in arrays:
        known.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    return known.hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files in a directory."""
    known = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        known.update(f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as content:
            known.update(hashlib.file_digest(content, "sha256").digest())
    return known.hexdigest()


def finished(directory: Path, mark: str) -> dict[str, ArtifactReport]:
    """Artifacts of the same export that lie there as they were written, by target.

    Args:
        directory: of the export.
        mark: what `fingerprint` says of it.
    """
    try:
        record: dict[str, Any] = json.loads((directory / REPORT_FILE).read_text("utf-8"))
        same = record["fingerprint"] == mark
        rows = [ArtifactReport.from_dict(row) for row in record["artifacts"]] if same else []
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # None, or one that cannot be read: nothing is known to be finished.
    return {
        row.target: row
        for row in rows
        if row.file_name is not None
        and (directory / row.file_name).exists()
        and digest(directory / row.file_name) == row.sha256
    }


def write(directory: Path, report: ExportReport, mark: str) -> Path:
    """Writes the report as JSON; returns its path."""
    path = directory / REPORT_FILE
    values = {"fingerprint": mark, **report.to_dict()}
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return path
