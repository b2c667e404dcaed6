"""Saving of evaluations and predictions."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_resnet.support.files import (
    check_new,
    check_writable,
    partial_directory,
    publish,
    whole_file,
)

if TYPE_CHECKING:
    from keras_resnet.evaluation.report import Evaluation

#: Suffixes of the formats in which predictions can be saved.
PREDICTION_FORMATS = (".csv", ".parquet")


def check_folder(output: Path, overwrite: bool) -> None:
    """Check that an evaluation can be saved in a folder.

    Raises:
        FileExistsError: the path is a file, or the folder has an evaluation and `overwrite` is not
            set.
        ValueError: the folder is not writable.
    """
    if output.is_file():
        raise FileExistsError(f"Expected a folder. Received: {output}, a file")
    check_new(output / "evaluation.json", overwrite)
    check_writable(output)


def save_evaluation(report: Evaluation, output: Path, overwrite: bool = False) -> None:
    """Write `evaluation.json` and `evaluation.html` into a folder; if one fails, write neither.

    Args:
        report: the evaluation.
        output: the folder, which is created if it does not exist.
        overwrite: whether to replace an evaluation in the folder.

    Raises:
        FileExistsError: the path is a file, or the folder has an evaluation and `overwrite` is not
            set.
    """
    from keras_resnet.evaluation.page import evaluation_page

    check_folder(output, overwrite)
    with partial_directory(output) as staging:
        text = json.dumps(report.to_dict(), allow_nan=False)
        (staging / "evaluation.json").write_text(text + "\n", encoding="utf-8")
        (staging / "evaluation.html").write_text(evaluation_page(report), "utf-8")
        publish(staging, ("evaluation.html", "evaluation.json"))


def check_predictions(path: Path, overwrite: bool) -> None:
    """Check that predictions can be saved to a file.

    Raises:
        ValueError: the suffix is not one of `PREDICTION_FORMATS`, or the folder is not writable.
        FileExistsError: the file exists, and `overwrite` is not set.
    """
    if path.suffix not in PREDICTION_FORMATS:
        raise ValueError(
            f"Expected a path that ends in {' or '.join(PREDICTION_FORMATS)} for predictions. "
            f"Received: {path}"
        )
    check_new(path, overwrite)
    check_writable(path.parent)


def save_predictions(report: Evaluation, path: Path, overwrite: bool = False) -> None:
    """Write a CSV or Parquet file with one row per image.

    The columns are `image`, `label`, `prediction`, `probability`, `right`, and the probability of
    every class in a column with its name.

    Args:
        report: the evaluation.
        path: the file, whose suffix is `.csv` or `.parquet`.
        overwrite: whether to replace an existing file.

    Raises:
        ValueError: the path has another suffix.
        FileExistsError: the file exists, and `overwrite` is not set.
    """
    pyarrow, csv, parquet = map(
        importlib.import_module, ("pyarrow", "pyarrow.csv", "pyarrow.parquet")
    )
    check_predictions(path, overwrite)
    rows = report.rows()
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    taken = set(columns)
    for index, name in enumerate(report.class_names):
        column = f"class {index}" if name in taken else name
        taken.add(column)
        columns[column] = report.probabilities[:, index]
    with whole_file(path) as staging:
        writer = csv.write_csv if path.suffix == ".csv" else parquet.write_table
        writer(pyarrow.table(columns), staging)
