"""An evaluation as a self-contained HTML page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from keras_resnet.evaluation.report import Evaluation
from keras_resnet.support.pages import escaped, page, picture, section

#: Of Okabe and Ito (2008), told apart with every kind of colour blindness.
_BAR, _LINE = "#0072B2", "#999999"

#: With more classes, names on the axes of the matrix cannot be read.
_NAMED = 30
_THUMBNAIL = 96


def evaluation_page(report: Evaluation) -> str:
    """The page, with thumbnails of the images of mistakes that can still be read."""
    notes = "".join(f"<li>{escaped(note)}</li>" for note in report.notes)
    described = f"{', '.join(report.models)} on {report.data}, protocol {report.protocol['name']}"
    sections = [
        f"<p>{escaped(described)}</p>",
        f"<ul>{notes}</ul>" if notes else "",
        section(
            "Figures",
            _table(("figure", "measured", "95 % interval", "published"), report.figures()),
        ),
        section("Confusion matrix", picture(confusion_figure(report), "Confusion matrix")),
        section(
            "Largest confusions",
            _table(("class", "taken for", "images"), report.largest_confusions),
        ),
        section("Calibration", picture(reliability_figure(report), "Reliability diagram")),
        section("Most confident mistakes", _mistakes(report)),
        section("Classes", _classes(report)),
    ]
    return page(f"Evaluation of {', '.join(report.models)}", sections)


def confusion_figure(report: Evaluation) -> Figure:
    """The confusion matrix: every row, the images of a class, adds up to 1."""
    totals = np.maximum(report.confusion.sum(axis=1, keepdims=True), 1)
    shares = report.confusion / totals
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(shown, label="share of the class's images")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("class")
    if len(report.class_names) <= _NAMED:
        places = range(len(report.class_names))
        axes.set_xticks(places, report.class_names, rotation=90)
        axes.set_yticks(places, report.class_names)
    return figure


def reliability_figure(report: Evaluation) -> Figure:
    """Accuracy by top-1 probability: a calibrated classifier's bars end on the diagonal."""
    rows = [row for row in report.calibration if row.images]
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    middles = [(row.low + row.high) / 2 for row in rows]
    width = rows[0].high - rows[0].low
    axes.bar(middles, [row.accuracy for row in rows], width * 0.9, color=_BAR)
    axes.plot([0, 1], [0, 1], color=_LINE, linestyle="--")
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    axes.set_title(f"expected calibration error {report.expected_calibration_error:.2%}")
    counts.bar(middles, [row.images for row in rows], width * 0.9, color=_LINE)
    counts.set(xlabel="probability of the predicted class", ylabel="images")
    return figure


def _mistakes(report: Evaluation) -> str:
    rows = []
    for mistake in report.mistakes:
        pixels = report.pixels(mistake.row)
        shown = "" if pixels is None else _image(pixels)
        words = (mistake.label, mistake.prediction, f"{mistake.probability:.2%}", mistake.image)
        cells = "".join(f"<td>{escaped(word)}</td>" for word in words)
        rows.append(f"<tr><td>{shown}</td>{cells}</tr>")
    if not rows:
        return "<p>There are none.</p>"
    titles = ("", "class", "predicted", "probability", "image")
    head = "".join(f"<th>{title}</th>" for title in titles)
    return f"<table class='words'><tr>{head}</tr>{''.join(rows)}</table>"


def _image(pixels: np.ndarray) -> str:
    small = Image.fromarray(pixels)
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, format="png")
    return (
        f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}" alt="">'
    )


def _classes(report: Evaluation) -> str:
    rows = (
        (
            row["name"],
            *(
                "–" if row[key] is None else f"{row[key]:.2%}"
                for key in ("precision", "recall", "f1")
            ),
            f"{row['support']:,}",
        )
        for row in report.per_class
    )
    return _table(("class", "precision", "recall", "F1", "images"), rows)


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{escaped(column)}</th>' for column in columns)}</tr>"]
    for row in rows:
        lines.append(f"<tr>{''.join(f'<td>{escaped(str(cell))}</td>' for cell in row)}</tr>")
    return f"<table>{''.join(lines)}</table>"
