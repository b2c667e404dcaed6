"""The self-contained HTML page of an evaluation."""

from __future__ import annotations

import base64
import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from keras_resnet.evaluation.report import Evaluation
from keras_resnet.support.pages import Html, escaped, links, page, picture, section, table

#: Colors that are distinct with every kind of color blindness (Okabe and Ito 2008).
_BAR, _LINE = "#0072B2", "#999999"

#: The largest number of classes whose names are legible on the axes of the confusion matrix.
_NAMED = 30

#: Side of a thumbnail, in pixels.
_THUMBNAIL = 96

#: Column of the tables -> explanation.
_METRICS = {
    "95 % interval": "Wilson's confidence interval: 95 % of such intervals contain the value for "
    "all images of this kind",
    "published": "the value that the publisher of the weights states, with the protocol in the "
    "notes",
}
_CLASS_METRICS = {
    "precision": "share of the images predicted as this class that belong to it",
    "recall": "share of the images of this class that are predicted as it",
    "F1": "harmonic mean of precision and recall; – if it is undefined",
    "images": "number of images of this class",
}


def evaluation_page(report: Evaluation) -> str:
    """Return the HTML page, with thumbnails of misclassified images that can still be read."""
    notes = "".join(f"<li>{escaped(note)}</li>" for note in report.notes)
    described = f"{', '.join(report.models)} on {report.data}, protocol {report.protocol['name']}"
    low, high = report.top1_interval
    sections = [
        f'<p class="verdict"><b>{report.accuracy:.2%}</b> of {report.images:,} images are '
        f"classified correctly (top-1; 95 % interval {low:.2%} to {high:.2%}).</p>",
        f"<p>{escaped(described)}</p>",
        f"<ul>{notes}</ul>" if notes else "",
        section(
            "Metrics",
            table(("metric", "measured", "95 % interval", "published"), report.figures(), _METRICS),
        ),
        section("Confusion matrix", picture(confusion_figure(report), "Confusion matrix")),
        section(
            "Largest confusions",
            table(
                ("class", "predicted as", "images"),
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
    """Draw the confusion matrix; every row, the shares of the images of a class, sums to 1."""
    totals = np.maximum(report.confusion.sum(axis=1, keepdims=True), 1)
    shares = report.confusion / totals
    # A larger figure for the names of more classes.
    side = max(5.0, 0.25 * min(len(report.class_names), _NAMED))
    figure = Figure(figsize=(side, 0.9 * side), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(shown, label="share of the class's images")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("class")
    if len(report.class_names) <= _NAMED:
        ticks = range(len(report.class_names))
        axes.set_xticks(ticks, report.class_names, rotation=90)
        axes.set_yticks(ticks, report.class_names)
    return figure


def reliability_figure(report: Evaluation) -> Figure:
    """Draw the accuracy by top-1 probability; calibrated bars end on the diagonal."""
    bins = [each for each in report.calibration if each.images]
    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    middles = [(each.low + each.high) / 2 for each in bins]
    width = bins[0].high - bins[0].low
    axes.bar(middles, [each.accuracy for each in bins], width * 0.9, color=_BAR)
    axes.plot([0, 1], [0, 1], color=_LINE, linestyle="--")
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    axes.set_title(f"expected calibration error {report.expected_calibration_error:.2%}")
    counts.bar(middles, [each.images for each in bins], width * 0.9, color=_LINE)
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
    """Return the table of the classes that have images or were predicted."""
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
    found = table(("class", "precision", "recall", "F1", "images"), rows, _CLASS_METRICS)
    absent = len(report.class_names) - len(known)
    if absent:
        found += f"<p>{absent:,} classes without images and predictions are left out.</p>"
    return found
