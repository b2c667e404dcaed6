"""Comparison of two evaluations of the same images."""

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
        images: number of images compared.
        left_out: number of images that only one of the evaluations has.
        accuracies: top-1 accuracy of each evaluation on the compared images, 0 to 1.
        only_first: number of images that only the first evaluation classifies correctly.
        only_second: number of images that only the second evaluation classifies correctly.
        disagreements: images with different predictions, each as a dict with the keys `image`,
            `label`, `first` and `second`.
        p_value: p-value of McNemar's exact test, whose null hypothesis is equal accuracy.
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
        table = terminal.table(("metric", "value"))
        for row in (
            ("images", f"{self.images:,}"),
            ("images in one evaluation only", f"{self.left_out:,}"),
            ("accuracy of the first", f"{first:.2%}"),
            ("accuracy of the second", f"{second:.2%}"),
            ("difference", f"{second - first:+.2%}"),
            ("only the first is correct", f"{self.only_first:,}"),
            ("only the second is correct", f"{self.only_second:,}"),
            ("McNemar's exact test, p", f"{self.p_value:.4f}"),
            ("different predictions", f"{len(self.disagreements):,}"),
        ):
            table.add_row(*row)
        for image in self.disagreements[:LISTED]:
            name = f"{image['image']} ({image['label']})"
            table.add_row(name, f"{image['first']} / {image['second']}")
        return table


def compare_evaluations(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> EvaluationComparison:
    """Compare two evaluations image by image.

    Image files are matched by their paths relative to the common folder of all files of an
    evaluation. Images that only one of the evaluations has are left out.

    Args:
        first: the first evaluation, as `Evaluation.to_dict` returns it or `evaluation.json` has it.
        second: the second evaluation.

    Raises:
        ValueError: an argument is not an evaluation, they have no image in common, or the labels of
            an image differ.

    Examples:

    ```python
    before, after = (json.loads(Path(path).read_text()) for path in ("a.json", "b.json"))
    compare_evaluations(before, after).p_value
    ```
    """
    by_image = [_predictions_by_image(values) for values in (first, second)]
    pairs = [(row, by_image[1][key]) for key, row in by_image[0].items() if key in by_image[1]]
    if not pairs:
        names = (name for name, _ in (next(iter(rows)) for rows in by_image))
        raise ValueError(
            "Expected two evaluations of the same images. Received: none in common, but for "
            f"instance {' and '.join(names)}"
        )
    relabeled = [row["image"] for row, other in pairs if row["label"] != other["label"]]
    if relabeled:
        raise ValueError(
            "Expected two evaluations with the same labels. Received: different labels of "
            f"{some_of(relabeled)}"
        )
    right = np.array([[row["right"], other["right"]] for row, other in pairs], bool).T
    return EvaluationComparison(
        len(pairs),
        len(by_image[0]) + len(by_image[1]) - 2 * len(pairs),
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


def _predictions_by_image(values: Mapping[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the predictions by image name and the number of its earlier occurrences."""
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
