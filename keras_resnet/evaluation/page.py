"""An evaluation as a self-contained HTML page."""

from __future__ import annotations

import base64
import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from keras_resnet.evaluation.report import Evaluation
from keras_resnet.support.pages import Html, escaped, links, page, picture, section, table

#: Of Okabe and Ito (2008), told apart with every kind of colour blindness.
_BAR, _LINE = "#0072B2", "#999999"

#: With more classes, names on the axes of the matrix cannot be read.
_NAMED = 30
_THUMBNAIL = 96

_FIGURES = {
    "95 % interval": "Wilson's interval: where the figure of endlessly many such images lies, with "
    "a probability of 95 %",
    "published": "what the publisher of the weights states, by the protocol in the notes",
}
_OF_CLASSES = {
    "precision": "share of the images predicted as this class that are of it",
    "recall": "share of the images of this class that are predicted as it",
    "F1": "harmonic mean of precision and recall; – where a figure does not exist",
    "images": "of this class",
}


def evaluation_page(report: Evaluation) -> str:
    """The page, with thumbnails of the images of mistakes that can still be read."""
    notes = "".join(f"<li>{escaped(note)}</li>" for note in report.notes)
    described = f"{', '.join(report.models)} on {report.data}, protocol {report.protocol['name']}"
    low, high = report.top1_interval
    sections = [
        f'<p class="verdict"><b>{report.accuracy:.2%}</b> of {report.images:,} images are '
        f"classified rightly (top-1; 95 % interval {low:.2%} to {high:.2%}).</p>",
        f"<p>{escaped(described)}</p>",
        f"<ul>{notes}</ul>" if notes else "",
        section(
            "Figures",
            table(("figure", "measured", "95 % interval", "published"), report.figures(), _FIGURES),
        ),
        section("Confusion matrix", picture(confusion_figure(report), "Confusion matrix")),
        section(
            "Largest confusions",
            table(
                ("class", "taken for", "images"),
                ((a, b, f"{count:,}") for a, b, count in report.largest_confusions),
            ),
        ),
        section("Calibration", picture(reliability_figure(report), "Reliability diagram")),
        section("Most confident mistakes", _mistakes(report)),
        section("Classes", _classes(report)),
        links(["evaluation.json"]),
    ]
    return page(f"Evaluation of {', '.join(report.models)}", sections)


def confusion_figure(report: Evaluation) -> Figure:
    """The confusion matrix: every row, the images of a class, adds up to 1."""
    totals = np.maximum(report.confusion.sum(axis=1, keepdims=True), 1)
    shares = report.confusion / totals
    # Names of many classes need room.
    side = max(5.0, 0.25 * min(len(report.class_names), _NAMED))
    figure = Figure(figsize=(side, 0.9 * side), layout="constrained")
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
    figure = Figure(figsize=(5, 4.5), layout="constrained")
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
        shown = Html("" if pixels is None else _image(pixels))
        words = (mistake.label, mistake.prediction, f"{mistake.probability:.2%}", mistake.image)
        rows.append((shown, *words))
    if not rows:
        return "<p>There are none.</p>"
    return table(("", "class", "predicted", "probability", "image"), rows, words=True)


def _image(pixels: np.ndarray) -> str:
    small = Image.fromarray(pixels)
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, format="png")
    return (
        f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}" alt="">'
    )


def _classes(report: Evaluation) -> str:
    """The classes that have images or were predicted: of the others, no figure exists."""
    known = [row for row in report.per_class if row["support"] or row["precision"] is not None]
    rows = (
        (
            row["name"],
            *(
                "–" if row[key] is None else f"{row[key]:.2%}"
                for key in ("precision", "recall", "f1")
            ),
            f"{row['support']:,}",
        )
        for row in known
    )
    found = table(("class", "precision", "recall", "F1", "images"), rows, _OF_CLASSES)
    absent = len(report.class_names) - len(known)
    if absent:
        found += (
            f"<p>{absent:,} classes without images, which were never predicted, are left out.</p>"
        )
    return found
