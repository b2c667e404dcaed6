"""The report of a compression."""

from __future__ import annotations

import dataclasses
import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from keras_resnet.compression.options import CompressionOptions
from keras_resnet.export.report.rows import ArtifactReport
from keras_resnet.export.tflite.inspect import kernels
from keras_resnet.support import pages, terminal
from keras_resnet.support.pages import escaped, link

#: Share of the pruning phase after which the final sparsity is reached.
_PRUNED_AT = 0.6


def pruning_pace(steps: int) -> tuple[int, int]:
    """Return the step at which pruning ends, and the steps between two updates of the masks."""
    return max(1, round(_PRUNED_AT * steps)), max(1, steps // 100)


_COLUMNS = ("artifact", "accuracy", "agreement", "size", "gzip", "latency", "zeros", "distinct")
_MEANINGS = {
    "accuracy": "share of the verification images that are classified correctly",
    "agreement": "share of the verification images for which the artifact predicts the same class "
    "as the trained network before its layers became plain ones",
    "gzip": "size after gzip -9",
    "latency": "median time of a call with one image",
    "zeros": "share of zeros among the weights of convolutions and dense layers",
    "distinct": "largest number of different weights in a layer (float: per channel)",
}


@dataclass(frozen=True)
class CompressionRow:
    """The results of an artifact before or after compression.

    Attributes:
        what: `"before"` or `"after"`, and the target, such as `"after: tflite-int8"`.
        file: path of the artifact in the output folder.
        accuracy: accuracy on the verification images, in [0, 1]; None: not measured.
        agreement: share of the verification images for which the artifact predicts the same class
            as the trained network before `strip` (with the engine `"tfmot"`, as its twin); None for
            artifacts from before the compression.
        size: size in bytes.
        packed: size after `gzip -9` in bytes.
        latency_ms: median time of a call with one image on all cores, in ms; None: not measured.
        zeros: share of zeros among the weights of convolutions and dense layers; None: not known
            for this format.
        distinct: largest number of different weights in a layer (in float, in a channel); None: not
            known for this format.
    """

    what: str
    file: str
    accuracy: float | None
    agreement: float | None
    size: int
    packed: int
    latency_ms: float | None
    zeros: float | None
    distinct: int | None


class CompressionError(RuntimeError):
    """Raised if an artifact disagrees with the trained network; `report` has all results."""

    def __init__(self, message: str, report: CompressionReport) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class CompressionReport:
    """The results of a compression.

    Attributes:
        rows: results of all artifacts, those before compression first.
        options: options of the compression.
        folder: output folder; it contains the network as `model.keras`.
    """

    rows: tuple[CompressionRow, ...]
    options: CompressionOptions
    folder: Path

    def to_dict(self) -> dict[str, Any]:
        """Return rows and options as JSON-serializable data."""
        rows = [dataclasses.asdict(row) for row in self.rows]
        return {"rows": rows, "options": dataclasses.asdict(self.options)}

    def to_table(self) -> Table:
        """Return a table for a terminal."""
        table = terminal.table(_COLUMNS, optional=("latency", "gzip", "distinct"))
        for row in self.rows:
            table.add_row(*_cells(row))
        return table


def compression_page(report: CompressionReport) -> str:
    """Return the report as a self-contained HTML page, with links to the artifacts."""
    before = {row.what.partition(": ")[2]: row for row in report.rows if row.agreement is None}
    sentences = []
    for row in report.rows:
        target = row.what.partition(": ")[2]
        if row.agreement is not None and target in before:
            earlier = before[target]
            sentences.append(
                f"{target}: accuracy {_shown(earlier.accuracy, '.2%')} before and "
                f"{_shown(row.accuracy, '.2%')} after, "
                f"{row.packed / earlier.packed:.0%} of the size after gzip."
            )
    cells = [(link(row.file, row.what), *_cells(row)[1:]) for row in report.rows]
    methods = ", ".join(report.options.methods)
    sections = [
        f'<p class="verdict">{escaped(" ".join(sentences))}</p>' if sentences else "",
        pages.section("Artifacts", pages.table(_COLUMNS, cells, _MEANINGS)),
        pages.links(["before/export.html", "after/export.html", "model.keras", "compression.json"]),
    ]
    return pages.page(f"Compression by {methods}", sections)


def _cells(row: CompressionRow) -> tuple[str, ...]:
    """Return the cells of a table row, one for each of `_COLUMNS`."""
    return (
        row.what,
        _shown(row.accuracy, ".2%"),
        _shown(row.agreement, ".2%"),
        f"{row.size / 1e6:.2f} MB",
        f"{row.packed / 1e6:.2f} MB",
        _shown(row.latency_ms, ".2f", " ms"),
        _shown(row.zeros, ".1%"),
        _shown(row.distinct, "d"),
    )


def _shown(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else format(value, form) + unit


def row_of(
    name: str, artifact: ArtifactReport, folder: Path, agreement: float | None
) -> CompressionRow:
    """Return the row for an exported artifact.

    Args:
        name: folder of the export, `"before"` or `"after"`.
        artifact: row of the artifact in the export report.
        folder: parent folder of `name`.
        agreement: agreement with the trained network; see `CompressionRow`.
    """
    path = folder / name / str(artifact.file_name)
    zeros = distinct = None
    if path.suffix == ".tflite":
        facts = kernels(path)
        zeros = sum(fact.zeros for fact in facts) / sum(fact.weights for fact in facts)
        distinct = max(fact.distinct for fact in facts)
    return CompressionRow(
        f"{name}: {artifact.target}",
        f"{name}/{artifact.file_name}",
        artifact.comparison.accuracy,
        agreement,
        artifact.size,
        len(gzip.compress(path.read_bytes(), 9)),
        artifact.latency_ms,
        zeros,
        distinct,
    )
