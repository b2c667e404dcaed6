"""Results of an export, with a row for every artifact."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rich.table import Table

from keras_resnet.export.comparison import Comparison
from keras_resnet.export.report.timing import Measurement
from keras_resnet.support import terminal
from keras_resnet.support.json_text import finite

_Figures = TypeVar("_Figures", Comparison, Measurement)


@dataclass(frozen=True)
class ArtifactReport:
    """Figures of one artifact, and its comparison with Keras.

    Attributes:
        target: name of the target; `"keras"` for the model itself.
        file_name: path relative to the export directory; `None` for the model itself.
        size: size in bytes; for the model itself, that of its `.keras` file.
        comparison: differences from the outputs of the Keras model.
        disagreements: phrases about exceeded limits; empty if the artifact agrees.
        operators: number of operators by name; empty if the format has no graph to inspect.
        float_layers: names of the layers that a quantized artifact computes in float.
        layer_errors: the five layers of a quantized artifact whose quantization changes the outputs
            most, with the change relative to the outputs' standard deviation, largest first; empty
            if the artifact agrees.
        measurements: latency and memory.
        sha256: SHA-256 of the content.
        fingerprint: hash of everything that the artifact and its figures depend on.
        notes: sentences on how an artifact of another package was run, and why.
    """

    target: str
    file_name: str | None
    size: int
    comparison: Comparison
    disagreements: tuple[str, ...] = ()
    operators: Mapping[str, int] = field(default_factory=dict)
    float_layers: tuple[str, ...] = ()
    layer_errors: Mapping[str, float] = field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()
    sha256: str = ""
    fingerprint: str = ""
    notes: tuple[str, ...] = ()

    @property
    def latency_ms(self) -> float | None:
        """Median latency in milliseconds, from the first successful measurement; else `None`."""
        return next((row.p50_ms for row in self.measurements if row.error is None), None)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ArtifactReport:
        """Return the report that `dataclasses.asdict` has turned into `values`, via JSON."""
        values = dict(values)
        comparison = _of_dict(Comparison, values.pop("comparison"))
        measurements = tuple(_of_dict(Measurement, row) for row in values.pop("measurements"))
        for name in ("disagreements", "float_layers"):
            values[name] = tuple(values[name])
        return cls(comparison=comparison, measurements=measurements, **values)


def _of_dict(kind: type[_Figures], values: Mapping[str, Any]) -> _Figures:
    """Return figures from JSON, where null stands for NaN in fields that have to be numbers."""
    numbers = {item.name for item in dataclasses.fields(kind) if item.type == "float"}
    known: dict[str, Any] = {
        name: math.nan if value is None and name in numbers else value
        for name, value in values.items()
    }
    return kind(**known)


@dataclass(frozen=True)
class ExportReport:
    """Report of an export.

    Attributes:
        artifacts: row of the Keras model itself, then those of the artifacts.
        model: facts about the model: name, fingerprint, number of parameters, input shape, names of
            the outputs and published weights that it started from.
        options: fields of `ExportOptions`.
        calibration: count, source, range of pixels and images per class of the calibration images;
            empty if there are none.
        verification: the same of the verification images.
        versions: versions of the packages that artifacts depend on.
        refusals: reasons why the model cannot be exported to a target, by target name.
    """

    artifacts: tuple[ArtifactReport, ...]
    model: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    verification: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """Number of verification images."""
        return self.artifacts[0].comparison.images

    @property
    def failures(self) -> list[str]:
        """Sentences about artifacts that disagree with Keras or cannot be made, one for each."""
        found = [_failure(artifact) for artifact in self.artifacts if artifact.disagreements]
        return found + [f"{target} is refused: {why}" for target, why in self.refusals.items()]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data for JSON; NaN and infinity become `None`."""
        values: dict[str, Any] = finite(dataclasses.asdict(self))
        return {**values, "not_measured": not_measured_in_words(self.artifacts)}

    def to_table(self) -> Table:
        """Return the report as a table for a terminal."""
        table = terminal.table(COLUMNS, wrap=("verdict",), optional=("memory", "size", "max error"))
        for artifact in self.artifacts:
            table.add_row(
                *cells(artifact, self.images), style="red" if artifact.disagreements else None
            )
        for target in self.refusals:
            table.add_row(*refused(target), style="red")
        table.caption = not_measured_in_words(self.artifacts)
        return table


def _failure(artifact: ArtifactReport) -> str:
    sentence = f"{artifact.target} disagrees with Keras: {'; '.join(artifact.disagreements)}"
    if artifact.layer_errors:
        worst = list(artifact.layer_errors)[:3]
        options = " ".join(f"--keep-float {layer}" for layer in worst)
        sentence += (
            f". The layers with the largest errors: {', '.join(worst)}. To compute them in float, "
            f"pass {options} (in Python: ExportOptions(keep_float={tuple(worst)!r}))"
        )
    return sentence


COLUMNS = ("artifact", "size", "accuracy", "agreement", "max error", "latency", "memory", "verdict")

#: Explanations of the columns.
MEANINGS = {
    "accuracy": "share of the verification images that are classified correctly",
    "agreement": "share of the verification images with the same class as in Keras",
    "max error": "largest difference of an output from Keras",
    "latency": "median time of a call with one image",
    "memory": "peak memory of a process with this artifact alone",
    "verdict": "ok: within the limits of the target",
}


def refused(target: str) -> tuple[str, ...]:
    """Return the row of a target without an artifact."""
    return (target, *["–"] * (len(COLUMNS) - 2), "refused")


def not_measured_in_words(artifacts: Iterable[ArtifactReport]) -> str:
    """Return sentences about figures that could not be measured; empty if there are none."""
    found: dict[str, set[str]] = {}
    for artifact in artifacts:
        for what, why in artifact.comparison.not_measured.items():
            found.setdefault(why, set()).add(what)
    return " ".join(
        f"Not measured, as {why}: {' and '.join(sorted(whats))}." for why, whats in found.items()
    )


def cells(artifact: ArtifactReport, images: int) -> tuple[str, ...]:
    """Return the cells of an artifact's row.

    An accuracy on fewer than `images` images is shown with their number.
    """
    found = artifact.comparison
    accuracy = share_in_words(found.accuracy)
    if found.accuracy is not None and found.images < images:
        accuracy += f" of {found.images}"
    missing = " and ".join(sorted(found.not_measured))
    verdict = f"{missing} not measured" if missing else "ok"
    latency = memory = "–"
    if artifact.measurements:
        first = artifact.measurements[0]
        latency = "not run" if first.error is not None else f"{first.p50_ms:.2f} ms"
        memory = "–" if first.error is not None else f"{first.peak_memory / 1e6:,.0f} MB"
    return (
        artifact.target,
        f"{artifact.size / 1000:,.0f} kB",
        accuracy,
        share_in_words(found.agreement),
        f"{found.max_error:.1e}",
        latency,
        memory,
        "disagrees" if artifact.disagreements else verdict,
    )


def share_in_words(share: float | None) -> str:
    """Return a share of images in percent; a dash if it is `None`."""
    return "–" if share is None else f"{share:.2%}"
