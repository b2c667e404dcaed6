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

#: Share of the pruning phase after which a network has all the zeros that it is to have.
_PRUNED_AT = 0.6


def pruning_pace(steps: int) -> tuple[int, int]:
    """Return the step of a phase at which pruning ends, and the steps between two prunings."""
    return max(1, round(_PRUNED_AT * steps)), max(1, steps // 100)


_COLUMNS = ("artifact", "accuracy", "agreement", "size", "gzip", "latency", "zeros", "distinct")
_MEANINGS = {
    "accuracy": "share of the verification images that are classified rightly",
    "agreement": "share of them that get the class that the trained network gave before its "
    "compression was made part of the weights",
    "gzip": "size after gzip -9",
    "latency": "median of one call with one image",
    "zeros": "share of zeros among the weights of convolutions and dense layers",
    "distinct": "most different weights of a layer, of a channel in float",
}


@dataclass(frozen=True)
class CompressionRow:
    """An artifact before or after.

    Attributes:
        what: `"before"` or `"after"`, and the target.
        file: the artifact, below the folder.
        accuracy: on the verification images, as a share.
        agreement: share of them to which it gives the class that the trained network gave before
            it was stripped, with the engine `"tfmot"` its twin in tf_keras; None: it is not of that
            network.
        size: bytes.
        packed: bytes after `gzip -9`.
        latency_ms: median of one image, on all cores; None: not measured.
        zeros: share of zeros among all weights of convolutions and dense layers; None: not known of
            this format.
        distinct: most different weights of a layer, of a channel in float; None: likewise.
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
    """An artifact disagrees with the network that was trained. `report` has the figures."""

    def __init__(self, message: str, report: CompressionReport) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class CompressionReport:
    """The result of a compression; `folder` contains the network as `model.keras`."""

    rows: tuple[CompressionRow, ...]
    options: CompressionOptions
    folder: Path

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
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
    """Return a row of the table with the columns `_COLUMNS`."""
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
    """Return the row of an artifact of an export.

    Args:
        name: `"before"` or `"after"`, the folder of the export.
        artifact: what the export says of it.
        folder: around that of the export.
        agreement: with the trained network.
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
