"""Evaluations of several published weights, as one table."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from rich.table import Table

from keras_resnet.evaluation.classes import Classes, columns_of
from keras_resnet.evaluation.images import Data, Split, open_images
from keras_resnet.evaluation.label_file import LabelFile
from keras_resnet.evaluation.report import Evaluation, protocol_in_words
from keras_resnet.images.labels import dataset_classes
from keras_resnet.support import terminal
from keras_resnet.support.checks import check_choice
from keras_resnet.support.files import partial_directory, publish
from keras_resnet.support.pages import escaped, link, links, page, section, table
from keras_resnet.support.text import markdown
from keras_resnet.weights.registry import find_weights

#: Field of a row -> heading of its column.
_COLUMNS = {
    "weights": "weights",
    "top1": "top-1",
    "published_top1": "published",
    "top5": "top-5",
    "published_top5": "published",
    "images": "images",
    "protocol": "protocol",
    "published_protocol": "published with",
}
_FIELDS = (*_COLUMNS, "data", "source", "error")
_MEANINGS = {
    "top-1": "measured share of the images whose most probable class is correct",
    "published": "the value that the publisher of the weights states",
    "top-5": "measured share of the images with a correct class among the five most probable ones",
    "protocol": "resizing and cropping of the images for the measured values",
    "published with": "resizing and cropping for the published values, which are comparable if "
    "both agree",
}


def check_series(
    tags: Sequence[str],
    data: Data,
    *,
    split: Split = "validation",
    validation_fraction: float = 0.1,
    labels: str | os.PathLike[str] | None = None,
    match_names: bool = False,
) -> dict[str, str]:
    """Compare the classes of the data with those of published weights, without a download.

    Args:
        tags: tags of the weights, at least one.
        data, split, validation_fraction, labels, match_names: as for `evaluate`.

    Returns:
        Tag -> reason, for the weights with other classes than the data.

    Raises:
        ValueError: the data are invalid, or all weights have other classes.
        OSError: the data cannot be read.
    """
    check_choice("split", split, get_args(Split))
    label_file = None if labels is None else LabelFile(labels)
    classes_by_tag = {tag: _classes_of(tag) for tag in tags}
    reasons = {}
    images = open_images(
        data, max(classes_by_tag.values(), key=len), 32,
        split=split, validation_fraction=validation_fraction, label_file=label_file,
    )  # fmt: skip
    for tag, classes in classes_by_tag.items():
        try:
            columns_of(classes, images.classes, match_names)
        except ValueError as error:
            reasons[tag] = str(error)
    if len(reasons) == len(classes_by_tag):
        raise ValueError(next(iter(reasons.values())))
    return reasons


def _classes_of(tag: str) -> Classes:
    entry = find_weights(tag)
    names, ids = dataset_classes(entry.dataset)
    known = entry.classes == len(names)
    return Classes(entry.classes, names, ids) if known else Classes(entry.classes)


def series_files(output: Path) -> list[Path]:
    """Return the files that `save_series` writes into a folder."""
    return [output / f"series.{kind}" for kind in ("csv", "md", "html", "json")]


def series_row(tag: str, report: Evaluation) -> dict[str, Any]:
    """Return the row of weights, with measured and published accuracies in percent."""
    stated = report.published or {}
    (member,) = report.protocol["members"]
    return {
        "weights": tag,
        "top1": 100 * report.accuracy,
        "published_top1": stated.get("top1"),
        "top5": 100 * report.top5_accuracy,
        "published_top5": stated.get("top5"),
        "images": report.images,
        "protocol": f"{report.protocol['name']}, {protocol_in_words(member)}",
        "published_protocol": protocol_in_words(stated["protocol"]) if stated else None,
        "data": report.data,
        "source": stated.get("source"),
    }


def save_series(rows: Sequence[Mapping[str, Any]], output: Path) -> list[Path]:
    """Write `series.csv`, `.md`, `.html` and `.json` into a folder; if one fails, write none.

    Args:
        rows: rows of `series_row`; for weights that could not be evaluated, dicts with the keys
            `weights` and `error`.
        output: the folder, which is created if it does not exist. Existing files are replaced.

    Returns:
        The paths of the files.
    """
    files = series_files(output)
    names = [file.name for file in files]
    texts = (_csv(rows), _markdown(rows), _html(rows), json.dumps(rows, indent=2) + "\n")
    with partial_directory(output) as staging:
        for name, text in zip(names, texts, strict=True):
            (staging / name).write_text(text, "utf-8")
        publish(staging, names)
    return files


def series_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the rows as a table for a terminal, without the protocols, which are too wide."""
    shown = terminal.table(tuple(_COLUMNS.values())[:6])
    for row in rows:
        shown.add_row(*_cells(row)[:6])
    return shown


def _cells(row: Mapping[str, Any]) -> list[str]:
    found = []
    for name in _COLUMNS:
        value = row.get(name)
        if name == "images" and "error" in row:
            found.append("failed")
        elif value is None:
            found.append("–")
        elif isinstance(value, str):
            found.append(value)
        else:
            found.append(f"{value:,}" if name == "images" else f"{value:.2f}%")
    return found


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [list(_COLUMNS.values()), ["---"] * len(_COLUMNS)]
    lines += [[markdown(cell) for cell in _cells(row)] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _html(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = []
    for row in rows:
        tag, *others = _cells(row)
        cells.append((tag if "error" in row else link(f"{tag}/evaluation.html", tag), *others))
    styles = ["failed" if "error" in row else "" for row in rows]
    failures = "".join(
        f"<li>{escaped(row['weights'])}: {escaped(row['error'])}</li>"
        for row in rows
        if "error" in row
    )
    sections = [
        section("Accuracy", table(tuple(_COLUMNS.values()), cells, _MEANINGS, styles=styles)),
        section("Not evaluated", f"<ul>{failures}</ul>") if failures else "",
        links(["series.csv", "series.md", "series.json"]),
    ]
    return page(f"Evaluation of {len(rows):,} published weights", sections)
