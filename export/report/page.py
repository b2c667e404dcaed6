"""HTML page of an export's report, and the model card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.figure import Figure

from keras_resnet.export.report.rows import (
    COLUMNS,
    MEANINGS,
    ExportReport,
    cells,
    not_measured_in_words,
    refused,
    share_in_words,
)
from keras_resnet.export.report.timing import SPEED_COLUMNS, SPEED_MEANINGS
from keras_resnet.support.pages import escaped, link, links, page, picture, section, table
from keras_resnet.support.text import markdown
from keras_resnet.weights.registry import find_weights, list_weights

#: Colors of Okabe and Ito (2008), which people with color blindness can tell apart.
_BAR, _KERAS, _BAD = "#0072B2", "#666666", "#B34A00"

#: Explanations of the columns about agreement.
_AGREEMENT = {
    "images": "number of images that were compared",
    "max error": "largest difference of an output",
    "mean error": "mean difference of the outputs",
    "cosine": "cosine between both outputs for an image, averaged over the images; 1: parallel",
    "top-1": "share of images with the same most probable class",
    "top-5": "share of Keras' five most probable classes that are among the artifact's five",
}

#: Cells of a row, and its class in the style sheet.
_Row = tuple[Sequence[str], str]


def html_table(report: ExportReport, folder: str = "") -> str:
    """Return the artifacts as an HTML table, with links to their files.

    Args:
        report: report of the export.
        folder: folder of the files relative to the page: empty, or with a slash at its end.
    """
    rows: list[Sequence[str]] = []
    for artifact in report.artifacts:
        target, *figures = cells(artifact, report.images)
        name = artifact.file_name
        rows.append((target if name is None else link(f"{folder}{name}", target), *figures))
    rows += [refused(target) for target in report.refusals]
    styles = ["failed" if artifact.disagreements else "passed" for artifact in report.artifacts]
    styles += ["failed"] * len(report.refusals)
    return table(COLUMNS, rows, MEANINGS, styles=styles)


def _table(columns: Sequence[str], rows: Sequence[_Row], kind: str, meanings: Any = None) -> str:
    styles = [style for _, style in rows]
    return table(columns, [row for row, _ in rows], meanings, styles=styles, words=kind == "words")


def report_page(report: ExportReport) -> str:
    """Return the report as a self-contained HTML page."""
    failures = report.failures
    words = "; ".join(failures) or "Every artifact agrees with Keras within its target's limits."
    words = f"{words} {not_measured_in_words(report.artifacts)}".rstrip()
    bars = picture(figure(report), "Bars: size, latency and accuracy of every artifact")
    sections = [
        f'<p class="verdict{" failed" if failures else ""}">{escaped(words)}</p>',
        section("Artifacts", html_table(report)),
        section("Size, latency, accuracy", bars),
        links(["export.json", "model_card.md"]),
        *(section(title, _table(*table)) for title, table in _tables(report) if table[1]),
    ]
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    sections.append(f"<footer>{escaped(versions)}</footer>")
    return page(f"Export of {report.model.get('name', 'a model')}", sections)


def _tables(report: ExportReport) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield the titles of the further tables, with the arguments of `_table` for each."""
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
    yield "Speed and memory", (SPEED_COLUMNS, measured, "figures", SPEED_MEANINGS)
    errors_and_shares = ("max error", "mean error", "cosine", "top-1", "top-5")
    columns = ("artifact", "images", *errors_and_shares)
    yield "Agreement with Keras", (columns, compared, "figures", _AGREEMENT)
    change = "change of the outputs by int8 in this layer alone, relative to their deviation"
    yield "Layers with the largest errors", (("artifact", change), hurt, "words")
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
    """Return the numbers of images of artifacts that were compared on fewer images."""
    fewer: dict[int, list[str]] = {}
    for artifact in report.artifacts:
        if artifact.comparison.images < report.verification["count"]:
            fewer.setdefault(artifact.comparison.images, []).append(artifact.target)
    return "".join(f"; {count} for {', '.join(names)}" for count, names in fewer.items())


def figure(report: ExportReport) -> Figure:
    """Return bar charts of size, median latency and accuracy (or agreement) of all artifacts."""
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
    # Panels are stacked, and narrow enough for a phone.
    height = len(panels) * (0.7 + 0.28 * len(artifacts))
    drawing = Figure(figsize=(5, height), layout="constrained")
    names = [artifact.target for artifact in artifacts]
    colors = [
        _KERAS if a.file_name is None else _BAD if a.disagreements else _BAR for a in artifacts
    ]
    rows = drawing.subplots(len(panels), 1, sharey=True, squeeze=False)[:, 0]
    for axes, (title, unit, values) in zip(rows, panels, strict=True):
        lengths = [unit * (value or 0.0) for value in values]
        axes.barh(names, lengths, color=colors)
        for place, (value, length) in enumerate(zip(values, lengths, strict=True)):
            text = "–" if value is None else f" {length:.4g} "
            # Long bars in percent end near the edge of the panel: write the figure inside.
            inside = title.endswith("%") and length > 50
            side, color = ("right", "white") if inside else ("left", "black")
            axes.annotate(text, (length, place), va="center", ha=side, color=color)
        axes.margins(x=0.3)
        if title.endswith("%"):
            axes.set_xlim(0, 100)
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    drawing.axes[0].invert_yaxis()
    return drawing


def model_card(report: ExportReport) -> str:
    """Return the model card in Markdown: the model, its license, artifacts and images."""
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
    lines += ["RGB pixels in [0, 255]; normalization is part of every artifact.", ""]
    if entry is not None:
        recipe = f", trained by {entry.recipe}" if entry.recipe else ""
        lines += [f"It started from the weights {entry.tag}, {entry.license}{recipe}.", ""]
        published = f"{entry.top1:g} % ({entry.accuracy_source})"
        lines += [f"Published accuracy of those weights: {published}.", ""]
    elif tag:
        lines += [f"It started from the weights {markdown(tag)}, of unknown license.", ""]
    else:
        lines += ["The license and the training data are not known.", ""]
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
