"""Results of an export, a row for every artifact; `page` makes pages of them."""

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
    """One artifact and how it compares with Keras.

    Attributes:
        target: name of the target; `keras` for the model itself.
        file_name: where it lies in the export directory; `None` for the model itself.
        size: bytes; of the model itself, those of its `.keras` file.
        comparison: what it puts out against what Keras does.
        disagreements: what is outside the target's limits, in words; empty if it agrees.
        operators: how often its graph has each operator, where the format has a graph to look into.
        float_layers: layers that a quantized artifact computes in float.
        layer_errors: the layers that hurt a quantized artifact most, worst first, if it disagrees;
            see `layer_errors`.
        measurements: latency and memory.
        sha256: of its content, to know it again.
        fingerprint: of all that it and its figures depend on; see `record.Fingerprints`.
        notes: of artifacts of other origin, how they were run and why, in sentences.
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
        """Median of the first measurement that worked; `None` if there is none."""
        return next((row.p50_ms for row in self.measurements if row.error is None), None)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ArtifactReport:
        """The reverse of `dataclasses.asdict`, after JSON."""
        values = dict(values)
        comparison = _of_dict(Comparison, values.pop("comparison"))
        measurements = tuple(_of_dict(Measurement, row) for row in values.pop("measurements"))
        for name in ("disagreements", "float_layers"):
            values[name] = tuple(values[name])
        return cls(comparison=comparison, measurements=measurements, **values)


def _of_dict(kind: type[_Figures], values: Mapping[str, Any]) -> _Figures:
    """The figures that JSON has; where it says null of what has to be a number, that was none."""
    numbers = {item.name for item in dataclasses.fields(kind) if item.type == "float"}
    known: dict[str, Any] = {
        name: math.nan if value is None and name in numbers else value
        for name, value in values.items()
    }
    return kind(**known)


@dataclass(frozen=True)
class ExportReport:
    """All artifacts of one export.

    Attributes:
        artifacts: the Keras model itself, then the artifacts.
        model: its name, its number of weights, the weights that it started from.
        options: the fields of `ExportOptions`.
        calibration: of the images: count, source, range, images per class; empty without any.
        verification: likewise.
        versions: of the packages that took part.
        refusals: targets that this model cannot be exported to, with the reasons.
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
        """The number of images of the comparison."""
        return self.artifacts[0].comparison.images

    @property
    def failures(self) -> list[str]:
        """One sentence per artifact that disagrees with Keras or cannot be made."""
        found = [_failure(artifact) for artifact in self.artifacts if artifact.disagreements]
        return found + [f"{target} is refused: {why}" for target, why in self.refusals.items()]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data for JSON; figures that are no numbers are `None`."""
        values: dict[str, Any] = finite(dataclasses.asdict(self))
        return {**values, "not_measured": not_measured_in_words(self.artifacts)}

    def to_table(self) -> Table:
        """The report for a terminal."""
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
            f". The layers that hurt most: {', '.join(worst)}. To compute them in float: {options} "
            f"(in Python: ExportOptions(keep_float={tuple(worst)!r}))"
        )
    return sentence


COLUMNS = ("artifact", "size", "accuracy", "agreement", "max error", "latency", "memory", "verdict")

#: What they mean.
MEANINGS = {
    "accuracy": "share of the verification images that are classified rightly",
    "agreement": "share of them that get the same class as from Keras",
    "max error": "largest difference of an output from Keras",
    "latency": "median of one call with one image",
    "memory": "most that a process with this artifact alone has used",
    "verdict": "ok: within the limits of the target",
}


def refused(target: str) -> tuple[str, ...]:
    """The row of a target that has no artifact."""
    return (target, *["–"] * (len(COLUMNS) - 2), "refused")


def not_measured_in_words(artifacts: Iterable[ArtifactReport]) -> str:
    """Return sentences about what could not be measured and why; empty if all was."""
    found: dict[str, set[str]] = {}
    for artifact in artifacts:
        for what, why in artifact.comparison.not_measured.items():
            found.setdefault(why, set()).add(what)
    return " ".join(
        f"Not measured, as {why}: {' and '.join(sorted(whats))}." for why, whats in found.items()
    )


def cells(artifact: ArtifactReport, images: int) -> tuple[str, ...]:
    """One row of the table, in words; of an accuracy on less than all `images`, on how many."""
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
    """A share of images in percent; a dash if it is not known."""
    return "–" if share is None else f"{share:.2%}"
