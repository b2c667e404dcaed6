"""The report of an export as a page, and the card of the exported model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from matplotlib.figure import Figure

from keras_resnet.export.report.rows import (
    COLUMNS,
    ExportReport,
    cells,
    not_measured_in_words,
    refused,
    share_in_words,
)
from keras_resnet.export.report.timing import SPEED_COLUMNS
from keras_resnet.support.pages import escaped, page, picture, section
from keras_resnet.support.text import markdown
from keras_resnet.weights.registry import find_weights, list_weights

#: Of Okabe and Ito (2008), told apart with every kind of colour blindness.
_BAR, _KERAS, _BAD = "#0072B2", "#999999", "#D55E00"


#: Cells and a class of the style sheet.
_Row = tuple[Sequence[str], str]


def html_table(report: ExportReport) -> str:
    """The artifacts as an HTML table."""
    rows = (
        (cells(artifact, report.images), "failed" if artifact.disagreements else "passed")
        for artifact in report.artifacts
    )
    missing = ((refused(target), "failed") for target in report.refusals)
    return _table(COLUMNS, (*rows, *missing))


def _table(columns: Sequence[str], rows: Iterable[_Row], kind: str = "figures") -> str:
    """`kind`: `"figures"`, or `"words"`, which wrap."""
    lines = [f"<tr>{''.join(f'<th>{escaped(column)}</th>' for column in columns)}</tr>"]
    for row, style in rows:
        inside = "".join(f"<td>{escaped(cell)}</td>" for cell in row)
        lines.append(f"<tr class='{style}'>{inside}</tr>")
    return f"<table class='{kind}'>{''.join(lines)}</table>"


def report_page(report: ExportReport) -> str:
    """A self-contained HTML page: verdict, pictures, tables, operators, images, versions."""
    failures = report.failures
    words = "; ".join(failures) or "Every artifact agrees with Keras within its target's limits."
    words = f"{words} {not_measured_in_words(report.artifacts)}".rstrip()
    bars = picture(figure(report), "Bars: size, latency and accuracy of every artifact")
    sections = [
        f'<p class="verdict{" failed" if failures else ""}">{escaped(words)}</p>',
        section("Artifacts", html_table(report)),
        section("Size, latency, accuracy", bars),
        *(section(title, _table(*table)) for title, table in _tables(report) if table[1]),
    ]
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    sections.append(f"<footer>{escaped(versions)}</footer>")
    return page(f"Export of {report.model.get('name', 'a model')}", sections)


def _tables(report: ExportReport) -> Iterator[tuple[str, tuple[Sequence[str], list[_Row], str]]]:
    """Titles, and what `_table` takes, of the tables behind the artifacts' own."""
    measured: list[_Row] = []
    compared: list[_Row] = []
    hurt: list[_Row] = []
    graphs: list[_Row] = []
    for artifact in report.artifacts:
        for row in artifact.measurements:
            if row.error is None:
                measured.append((row.cells(), ""))
            else:
                measured.append(((*row.cells()[:3], f"not run: {row.error}"), "failed"))
        target, found = artifact.target, artifact.comparison
        figures = (str(found.images), f"{found.max_error:.1e}", f"{found.mean_error:.1e}")
        shares = (share_in_words(found.agreement), share_in_words(found.top5_agreement))
        compared.append(((target, *figures, f"{found.cosine:.6f}", *shares), ""))
        if artifact.layer_errors:
            errors = (f"{layer} {error:.2g}" for layer, error in artifact.layer_errors.items())
            hurt.append(((target, ", ".join(errors)), ""))
        if artifact.operators:
            counts = (f"{count} {name}" for name, count in sorted(artifact.operators.items()))
            graphs.append(
                ((target, ", ".join(artifact.float_layers) or "–", ", ".join(counts)), "")
            )
    yield "Speed and memory", (SPEED_COLUMNS, measured, "figures")
    errors_and_shares = ("max error", "mean error", "cosine", "top-1", "top-5")
    yield "Agreement with Keras", (("artifact", "images", *errors_and_shares), compared, "figures")
    change = "what int8 in one layer changes, relative to the outputs"
    yield "Layers that hurt most", (("artifact", change), hurt, "words")
    yield "Graphs", (("artifact", "computed in float", "operators"), graphs, "words")
    images: list[_Row] = [(row, "") for row in _images(report)]
    yield "Images", (("for", "count", "source", "pixels", "images per class"), images, "words")


def _images(report: ExportReport) -> Iterator[tuple[str, ...]]:
    for name, images in (
        ("calibration", report.calibration),
        ("verification", report.verification),
    ):
        if not images:
            continue
        pixels, per_class = images["pixels"], images["images_per_class"]
        span = f"{pixels['lowest']:g} to {pixels['highest']:g}, mean {pixels['mean']:.1f}"
        classes = "–" if per_class is None else f"{per_class['lowest']} to {per_class['highest']}"
        count = f"{images['count']}{_exceptions(report) if name == 'verification' else ''}"
        yield name, count, images["source"], span, classes


def _exceptions(report: ExportReport) -> str:
    """Which artifacts were compared on fewer images, in words."""
    fewer: dict[int, list[str]] = {}
    for artifact in report.artifacts:
        if artifact.comparison.images < report.verification["count"]:
            fewer.setdefault(artifact.comparison.images, []).append(artifact.target)
    return "".join(f"; {count} for {', '.join(names)}" for count, names in fewer.items())


def figure(report: ExportReport) -> Figure:
    """Bars of size, median latency and accuracy (else agreement), one per artifact."""
    artifacts = report.artifacts
    compared = [artifact.comparison for artifact in artifacts]
    panels: list[tuple[str, float, list[float | None]]] = [
        ("size in MB", 1e-6, [artifact.size for artifact in artifacts])
    ]
    latencies = [artifact.latency_ms for artifact in artifacts]
    if any(value is not None for value in latencies):
        panels.append(("latency in ms", 1, latencies))
    if compared[0].accuracy is not None:
        panels.append(("accuracy in %", 100, [found.accuracy for found in compared]))
    elif all(found.agreement is not None for found in compared):
        panels.append(("agreement in %", 100, [found.agreement for found in compared]))
    else:
        panels.append(("cosine", 1, [found.cosine for found in compared]))
    drawing = Figure(figsize=(10, 1.2 + 0.35 * len(artifacts)), layout="constrained")
    names = [artifact.target for artifact in artifacts]
    colors = [
        _KERAS if a.file_name is None else _BAD if a.disagreements else _BAR for a in artifacts
    ]
    columns = drawing.subplots(1, len(panels), sharey=True)
    for axes, (title, unit, values) in zip(columns, panels, strict=True):
        lengths = [unit * (value or 0.0) for value in values]
        axes.barh(names, lengths, color=colors)
        for place, (value, length) in enumerate(zip(values, lengths, strict=True)):
            text = "–" if value is None else f" {length:.4g}"
            axes.annotate(text, (length, place), va="center")
        axes.margins(x=0.3)
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    drawing.axes[0].invert_yaxis()
    return drawing


def model_card(report: ExportReport) -> str:
    """The card of the exported model, in Markdown: what it is, its licence, its artifacts."""
    model, tag = report.model, report.model.get("weights")
    entry: Any = find_weights(tag) if tag in list_weights() else None
    front = {"library_name": "keras", "pipeline_tag": "image-classification"}
    if entry is not None:
        front["license"] = entry.license.lower()
    lines = ["---", *(f"{key}: {value}" for key, value in front.items()), "---", ""]
    lines += [f"# {markdown(model['name'])}", ""]
    names = ("batch", "height", "width", "channels")
    sides = (str(side or name) for side, name in zip(model["input"], names, strict=True))
    shape = f"({', '.join(sides)}), NHWC"
    lines += [f"{model['parameters']:,} weights; input `image`: {shape}.", ""]
    lines += ["RGB pixels in [0, 255]; normalisation is part of every artifact.", ""]
    if entry is not None:
        recipe = f", trained by {entry.recipe}" if entry.recipe else ""
        lines += [f"It started from the weights {entry.tag}, {entry.license}{recipe}.", ""]
        published = f"{entry.top1:g} % ({entry.accuracy_source})"
        lines += [f"Published accuracy of those weights: {published}.", ""]
    elif tag:
        lines += [f"It started from the weights {markdown(tag)}, of unknown licence.", ""]
    else:
        lines += ["Licence and training data are not known to the exporter.", ""]
    lines += ["## Artifacts", "", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for artifact in report.artifacts:
        lines.append(f"| {' | '.join(map(markdown, cells(artifact, report.images)))} |")
    if missing := not_measured_in_words(report.artifacts):
        lines += ["", markdown(missing)]
    lines += ["", "Latency: median of one call, on the machine that exported.", "", "## Images", ""]
    for name, count, source, span, _ in _images(report):
        lines.append(f"- {name}: {markdown(source)}; images: {count}; pixels: {span}")
    if report.refusals:
        lines += ["", "## Not exported", ""]
        lines += [f"- {target}: {markdown(why)}" for target, why in report.refusals.items()]
    return "\n".join(lines) + "\n"
