"""Evaluations as files."""

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

#: Formats of files of predictions, by suffix.
PREDICTION_FORMATS = (".csv", ".parquet")


def check_folder(output: Path, overwrite: bool) -> None:
    """Refuses a folder that an evaluation cannot be written to.

    Raises:
        FileExistsError: it is a file, or has an evaluation that is not to be overwritten.
        ValueError: it cannot be written to.
    """
    if output.is_file():
        raise FileExistsError(f"Expected a folder. Received: {output}, a file")
    check_new(output / "evaluation.json", overwrite)
    check_writable(output)


def save_evaluation(report: Evaluation, output: Path, overwrite: bool = False) -> None:
    """Writes `evaluation.json` and `evaluation.html` into a folder, or neither.

    Args:
        report: what was found.
        output: the folder; made if it is not there.
        overwrite: whether an evaluation that is there is replaced.

    Raises:
        FileExistsError: as for `check_folder`.
    """
    from keras_resnet.evaluation.page import evaluation_page

    check_folder(output, overwrite)
    with partial_directory(output) as staging:
        text = json.dumps(report.to_dict(), allow_nan=False)
        (staging / "evaluation.json").write_text(text + "\n", encoding="utf-8")
        (staging / "evaluation.html").write_text(evaluation_page(report), "utf-8")
        publish(staging, ("evaluation.html", "evaluation.json"))


def check_predictions(path: Path, overwrite: bool) -> None:
    """Refuses a file that predictions cannot be written to.

    Raises:
        ValueError: it has another suffix than those of `PREDICTION_FORMATS`, or its folder cannot
            be written to.
        FileExistsError: it is there, and is not to be overwritten.
    """
    if path.suffix not in PREDICTION_FORMATS:
        raise ValueError(
            f"Expected a file {' or '.join(PREDICTION_FORMATS)} for predictions. Received: {path}"
        )
    check_new(path, overwrite)
    check_writable(path.parent)


def save_predictions(report: Evaluation, path: Path, overwrite: bool = False) -> None:
    """Writes a row per image, with all probabilities, as CSV or Parquet, by the suffix.

    The columns are `image`, `label`, `prediction`, `probability`, `right`, and the name of every
    class with its probability.
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
