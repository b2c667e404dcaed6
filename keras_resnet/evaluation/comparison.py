"""Two evaluations of the same images, side by side."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from keras_resnet.evaluation.metrics import mcnemar
from keras_resnet.evaluation.report import LISTED
from keras_resnet.support import terminal
from keras_resnet.support.checks import some_of


@dataclass(frozen=True)
class EvaluationComparison:
    """The differences between two evaluations.

    Attributes:
        images: how many images were compared.
        left_out: how many are in one of the evaluations only.
        accuracies: top-1 accuracy of each, 0 to 1.
        only_first: images that only the first one classifies rightly.
        only_second: those that only the second one does.
        disagreements: images that they give different classes: name, label, both predictions.
        p_value: of McNemar's exact test, that both are equally often right.
    """

    images: int
    left_out: int
    accuracies: tuple[float, float]
    only_first: int
    only_second: int
    disagreements: list[dict[str, str]]
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**vars(self), "accuracies": list(self.accuracies)}

    def to_table(self) -> Table:
        """Return a table for a terminal."""
        first, second = self.accuracies
        table = terminal.table(("figure", "value"))
        for row in (
            ("images", f"{self.images:,}"),
            ("images of one evaluation only", f"{self.left_out:,}"),
            ("accuracy of the first", f"{first:.2%}"),
            ("accuracy of the second", f"{second:.2%}"),
            ("difference", f"{second - first:+.2%}"),
            ("only the first is right", f"{self.only_first:,}"),
            ("only the second is right", f"{self.only_second:,}"),
            ("McNemar's exact test, p", f"{self.p_value:.4f}"),
            ("different answers", f"{len(self.disagreements):,}"),
        ):
            table.add_row(*row)
        for image in self.disagreements[:LISTED]:
            name = f"{image['image']} ({image['label']})"
            table.add_row(name, f"{image['first']} / {image['second']}")
        return table


def compare_evaluations(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> EvaluationComparison:
    """Compares two evaluations, as `Evaluation.to_dict` gives them, image by image.

    Files are the same if their paths below the folder of all are. Images that only one of the two
    has, such as one that could not be read, are left out.

    Raises:
        ValueError: they have no image in common, or other labels, or are something else.
    """
    tables = [_rows_by_image(values) for values in (first, second)]
    pairs = [(row, tables[1][name]) for name, row in tables[0].items() if name in tables[1]]
    if not pairs:
        names = (next(iter(table)) for table in tables)
        raise ValueError(
            "Expected two evaluations of the same images. Received: none in common, such as "
            f"{' and '.join(str(name) for name, _ in names)}"
        )
    relabelled = [row["image"] for row, other in pairs if row["label"] != other["label"]]
    if relabelled:
        raise ValueError(
            "Expected two evaluations with the same labels. Received: other labels of "
            f"{some_of(relabelled)}"
        )
    right = np.array([[row["right"], other["right"]] for row, other in pairs], bool).T
    return EvaluationComparison(
        len(pairs),
        len(tables[0]) + len(tables[1]) - 2 * len(pairs),
        (float(right[0].mean()), float(right[1].mean())),
        int((right[0] & ~right[1]).sum()),
        int((right[1] & ~right[0]).sum()),
        [
            {
                "image": row["image"],
                "label": row["label"],
                "first": row["prediction"],
                "second": other["prediction"],
            }
            for row, other in pairs
            if row["prediction"] != other["prediction"]
        ],
        mcnemar(*right),
    )


def _rows_by_image(values: Mapping[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    """Rows by the image's name, and how often it came before."""
    try:
        rows = [dict(row) for row in values["predictions"]]
        names = [row["image"] for row in rows]
        complete = rows and all({"label", "prediction", "right"} <= row.keys() for row in rows)
    except (TypeError, KeyError, AttributeError, ValueError):
        complete = False
    if not complete or not all(isinstance(name, str) for name in names):
        raise ValueError(
            "Expected the contents of an `evaluation.json` with at least one image. Received: "
            "something else"
        )
    if all(os.sep in name for name in names) and len(names) > 1:
        above = os.path.commonpath([os.path.dirname(name) for name in names])  # noqa: PTH120
        names = [os.path.relpath(name, above) for name in names]
    seen: Counter[str] = Counter()
    found = {}
    for name, row in zip(names, rows, strict=True):
        found[name, seen[name]] = row
        seen[name] += 1
    return found
