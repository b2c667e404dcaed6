from __future__ import annotations

import csv
from pathlib import Path


def read_history(folder: Path | None) -> dict[str, list[float]]:
    """The columns of a run's `history.csv`, without the numbers of the epochs."""
    assert folder is not None
    with (folder / "history.csv").open(newline="") as file:
        names, *rows = csv.reader(file)
    columns = zip(*rows, strict=True)
    return {
        name: [float(value) for value in column]
        for name, column in zip(names, columns, strict=True)
        if name != "epoch"
    }
