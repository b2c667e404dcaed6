"""What an export found, as data, as a terminal table and as an HTML table."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from keras_resnet import terminal
from keras_resnet.export.verify import Comparison


@dataclass(frozen=True)
class ArtifactReport:
    """One artifact and how it compares with Keras.

    Attributes:
        target: name of the target; `keras` for the model itself.
        file_name: where it lies in the export directory; `None` for the model itself.
        size: bytes; of the model itself, those of its `.keras` file.
        comparison: its predictions against those of Keras.
        latency_ms: median at batch 1.
        disagreements: what is outside the target's limits, in words; empty if it agrees.
    """

    target: str
    file_name: str | None
    size: int
    comparison: Comparison
    latency_ms: float
    disagreements: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExportReport:
    """All artifacts of one export."""

    artifacts: tuple[ArtifactReport, ...]

    @property
    def failures(self) -> list[str]:
        """One sentence per artifact that disagrees with Keras."""
        return [
            f"{artifact.target} disagrees with Keras: {'; '.join(artifact.disagreements)}"
            for artifact in self.artifacts
            if artifact.disagreements
        ]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data for JSON."""
        return {"artifacts": [dataclasses.asdict(artifact) for artifact in self.artifacts]}

    def to_table(self) -> Table:
        """The report for a terminal."""
        table = terminal.table(_COLUMNS)
        for artifact in self.artifacts:
            table.add_row(*_cells(artifact), style="red" if artifact.disagreements else None)
        return table

    def to_html(self) -> str:
        """The report as an HTML table."""

        def rows() -> Iterator[str]:
            yield f"<tr>{''.join(f'<th>{column}</th>' for column in _COLUMNS)}</tr>"
            for artifact in self.artifacts:
                cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(artifact))
                row_class = "failed" if artifact.disagreements else "passed"
                yield f"<tr class='{row_class}'>{cells}</tr>"

        return f"<table>{''.join(rows())}</table>"


_COLUMNS = ("artifact", "size", "accuracy", "agreement", "max error", "latency", "verdict")


def _cells(artifact: ArtifactReport) -> tuple[str, ...]:
    comparison = artifact.comparison
    return (
        artifact.target,
        f"{artifact.size / 1000:,.0f} kB",
        "–" if comparison.accuracy is None else f"{comparison.accuracy:.2%}",
        f"{comparison.agreement:.2%}",
        f"{comparison.max_error:.1e}",
        f"{artifact.latency_ms:.2f} ms",
        "disagrees" if artifact.disagreements else "ok",
    )
