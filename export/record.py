"""Record of the artifacts in an export directory, which lets an interrupted export resume."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import keras

from keras_resnet.export.images import ImageSet
from keras_resnet.export.options import ExportOptions
from keras_resnet.export.report.rows import ArtifactReport, ExportReport
from keras_resnet.export.targets import Target
from keras_resnet.models.info import learned_ranges
from keras_resnet.support.extras import installed_versions
from keras_resnet.support.fingerprints import fingerprint, fingerprint_of_artifact
from keras_resnet.support.json_text import load_json

#: Written after every target. A complete export has a page and a model card, too.
REPORT_FILE = "export.json"

#: Packages that artifacts depend on.
_PACKAGES = (
    *("keras-resnets", "keras", "tensorflow"),
    *("ai-edge-litert", "tf2onnx", "onnx", "onnxruntime"),
)


def versions() -> dict[str, str]:
    """Return the versions of the packages that artifacts depend on; missing ones are left out."""
    return {name: version for name, version in installed_versions(_PACKAGES).items() if version}


class Fingerprints:
    """Hashes of everything that artifacts and their figures depend on.

    Attributes:
        model: hash of the model and its weights.
    """

    def __init__(
        self,
        model: keras.Model,
        calibration: ImageSet | None,
        verification: ImageSet,
        options: ExportOptions,
    ) -> None:
        self.model = fingerprint(model.to_json(), *model.get_weights())
        self._verification = fingerprint(verification.images, verification.labels)
        self._calibration = None if calibration is None else fingerprint(calibration.images)
        self._learned = learned_ranges(model)
        self._options = options

    def of(self, target: Target) -> str:
        """Return the fingerprint of everything that a target's artifact and figures depend on."""
        settings: dict[str, Any] = {
            "target": target.name,
            "options": dataclasses.asdict(self._options),
            "versions": versions(),
        }
        if target.needs_calibration:
            settings["calibration"] = self._calibration
            settings["learned"] = None if self._learned is None else dict(self._learned)
        else:
            # Float artifacts do not depend on the layers that integer artifacts keep in float.
            del settings["options"]["keep_float"]
        text = json.dumps(settings, sort_keys=True)
        return fingerprint(self.model, self._verification, text)


def finished(directory: Path) -> tuple[str | None, dict[str, ArtifactReport]]:
    """Return the fingerprint of an export's model, and the rows of its artifacts by file name.

    Artifacts that are missing or were changed since the export are left out.
    """
    try:
        record: dict[str, Any] = load_json(directory / REPORT_FILE)
        model = str(record["model"]["fingerprint"])
        rows = [ArtifactReport.from_dict(row) for row in record["artifacts"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, {}  # There is no report, or it cannot be read.
    return model, {
        row.file_name: row
        for row in rows
        if row.file_name is not None
        and (directory / row.file_name).exists()
        and fingerprint_of_artifact(directory / row.file_name) == row.sha256
    }


def write(directory: Path, report: ExportReport) -> None:
    """Write the report to the directory as JSON."""
    text = json.dumps(report.to_dict(), indent=1, ensure_ascii=False)
    (directory / REPORT_FILE).write_text(f"{text}\n", "utf-8")
