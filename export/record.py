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
from keras_resnet.export.report.report import ArtifactReport, ExportReport
from keras_resnet.export.source import ExportOptions
from keras_resnet.export.targets import Target
from keras_resnet.models.info import learned_ranges

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


class Fingerprints:
    """Hashes of what artifacts and their figures depend on.

    Attributes:
        model: of the network and its weights.
    """

    def __init__(
        self,
        model: keras.Model,
        calibration: ImageSet | None,
        verification: ImageSet,
        options: ExportOptions,
    ) -> None:
        self.model = _hash(model.to_json(), *model.get_weights())
        self._verification = _hash(verification.images, verification.labels)
        self._calibration = None if calibration is None else _hash(calibration.images)
        self._learned = learned_ranges(model)
        self._options = options

    def of(self, target: Target) -> str:
        """Of all that an artifact and its figures depend on; equal for an equal export."""
        settings: dict[str, Any] = {
            "target": target.name,
            "options": dataclasses.asdict(self._options),
            "versions": versions(),
        }
        if target.needs_calibration:
            settings["calibration"] = self._calibration
            settings["learned"] = None if self._learned is None else dict(self._learned)
        else:
            # Artifacts in float are the same whatever int8 leaves in float.
            del settings["options"]["keep_float"]
        text = json.dumps(settings, sort_keys=True)
        return _hash(self.model, self._verification, text)


def _hash(*parts: str | np.ndarray | None) -> str:
    known = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, np.ndarray) else np.frombuffer(str(part).encode(), "u1")
        known.update(f"{content.dtype}{content.shape}".encode())
        known.update(np.ascontiguousarray(content).tobytes())
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


def finished(directory: Path, model: str) -> dict[str, ArtifactReport]:
    """Artifacts of the same model that lie there as they were written, by file name.

    Args:
        directory: of the export.
        model: what `Fingerprints.model` says of it.
    """
    try:
        record: dict[str, Any] = json.loads((directory / REPORT_FILE).read_text("utf-8"))
        same = record["model"]["fingerprint"] == model
        rows = [ArtifactReport.from_dict(row) for row in record["artifacts"]] if same else []
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # None, or one that cannot be read: nothing is known to be finished.
    return {
        row.file_name: row
        for row in rows
        if row.file_name is not None
        and (directory / row.file_name).exists()
        and digest(directory / row.file_name) == row.sha256
    }


def write(directory: Path, report: ExportReport) -> Path:
    """Writes the report as JSON; returns its path."""
    path = directory / REPORT_FILE
    text = json.dumps(report.to_dict(), indent=1, ensure_ascii=False)
    path.write_text(f"{text}\n", "utf-8")
    return path
