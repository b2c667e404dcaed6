"""The report of an export as a page, and the card of the exported model."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from matplotlib.figure import Figure

from keras_resnet.export.report.report import COLUMNS, ArtifactReport, ExportReport, cells, refused
from keras_resnet.support.pages import page, picture, section
from keras_resnet.weights.registry import find_weights, list_weights

#: Of Okabe and Ito (2008), told apart with every kind of colour blindness.
_BAR, _KERAS, _BAD = "#0072B2", "#999999", "#D55E00"


def html_table(report: ExportReport) -> str:
    """The artifacts as an HTML table."""
    rows = (
        (cells(artifact), "failed" if artifact.disagreements else "passed")
        for artifact in report.artifacts
    )
    missing = ((refused(target), "failed") for target in report.refusals)
    return _table(COLUMNS, (*rows, *missing))


def _table(
    columns: Sequence[str], rows: Iterable[tuple[Sequence[str], str]], kind: str = "figures"
) -> str:
    """`kind`: `"figures"`, or `"words"`, which wrap."""

    def lines() -> Iterator[str]:
        yield f"<tr>{''.join(f'<th>{html.escape(column)}</th>' for column in columns)}</tr>"
        for row, style in rows:
            inside = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
            yield f"<tr class='{style}'>{inside}</tr>"

    return f"<table class='{kind}'>{''.join(lines())}</table>"


def report_page(report: ExportReport) -> str:
    """A self-contained HTML page: verdict, pictures, tables, operators, images, versions."""
    failures = report.failures
    words = "; ".join(failures) or "Every artifact agrees with Keras within its target's limits."
    sections = [
        f'<p class="verdict{" failed" if failures else ""}">{html.escape(words)}</p>',
        section("Artifacts", html_table(report)),
        section(
            "Size, latency, accuracy",
            picture(figure(report), "Bars: size, latency and accuracy of every artifact"),
        ),
    ]
    measured = [row for artifact in report.artifacts for row in _measured(artifact)]
    if measured:
        sections.append(section("Speed and memory", _table(_SPEED_COLUMNS, measured)))
    compared = [(_agreement(artifact), "") for artifact in report.artifacts]
    sections.append(section("Agreement with Keras", _table(_AGREEMENT_COLUMNS, compared)))
    hurt = [(_layer_errors(artifact), "") for artifact in report.artifacts if artifact.layer_errors]
    if hurt:
        columns = ("artifact", "what int8 in one layer changes, relative to the outputs")
        sections.append(section("Layers that hurt most", _table(columns, hurt, "words")))
    graphs = [(_operators(artifact), "") for artifact in report.artifacts if artifact.operators]
    if graphs:
        sections.append(section("Graphs", _table(_GRAPH_COLUMNS, graphs, "words")))
    headings = ("for", *_IMAGE_COLUMNS)
    sections.append(section("Images", _table(headings, _images(report), "words")))
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    sections.append(f"<footer>{html.escape(versions)}</footer>")
    return page(f"Export of {report.model.get('name', 'a model')}", sections)


def _measured(artifact: ArtifactReport) -> Iterator[tuple[Sequence[str], str]]:
    for row in artifact.measurements:
        head = (artifact.target, str(row.batch_size), str(row.threads or "all"))
        if row.error is not None:
            yield (*head, f"not run: {row.error}"), "failed"
            continue
        p99 = "–" if row.p99_ms is None else f"{row.p99_ms:.2f} ms"
        speed, memory = f"{row.images_per_second:,.0f}", f"{row.peak_memory / 1e6:,.0f} MB"
        yield (*head, f"{row.p50_ms:.2f} ms", f"{row.p90_ms:.2f} ms", p99, speed, memory), ""


_SPEED_COLUMNS = ("artifact", "batch", "threads", "p50", "p90", "p99", "images/s", "memory")
_AGREEMENT_COLUMNS = ("artifact", "images", "max error", "mean error", "cosine", "top-1", "top-5")


def _agreement(artifact: ArtifactReport) -> tuple[str, ...]:
    found = artifact.comparison
    shares = (found.agreement, found.top5_agreement)
    return (
        artifact.target,
        str(found.images),
        f"{found.max_error:.1e}",
        f"{found.mean_error:.1e}",
        f"{found.cosine:.6f}",
        *("–" if share is None else f"{share:.2%}" for share in shares),
    )


def _layer_errors(artifact: ArtifactReport) -> tuple[str, str]:
    errors = artifact.layer_errors.items()
    return artifact.target, ", ".join(f"{layer} {error:.2g}" for layer, error in errors)


def _operators(artifact: ArtifactReport) -> tuple[str, str, str]:
    counts = ", ".join(f"{count} {name}" for name, count in sorted(artifact.operators.items()))
    return artifact.target, ", ".join(artifact.float_layers) or "–", counts


_GRAPH_COLUMNS = ("artifact", "computed in float", "operators")
_IMAGE_COLUMNS = ("count", "source", "pixels", "images per class")


def _images(report: ExportReport) -> Iterator[tuple[Sequence[str], str]]:
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
        yield (name, count, images["source"], span, classes), ""


def _exceptions(report: ExportReport) -> str:
    """Which artifacts were compared on fewer images, in words."""
    fewer: dict[int, list[str]] = {}
    for artifact in report.artifacts:
        if artifact.comparison.images < report.verification["count"]:
            fewer.setdefault(artifact.comparison.images, []).append(artifact.target)
    return "".join(f"; {count} for {', '.join(names)}" for count, names in fewer.items())


def figure(report: ExportReport) -> Figure:
    """Bars of size, median latency and accuracy (else agreement), one per artifact."""
    artifacts = list(report.artifacts)
    labelled = artifacts[0].comparison.accuracy is not None
    agreeing = all(artifact.comparison.agreement is not None for artifact in artifacts)
    panels: list[tuple[str, list[float | None]]] = [
        ("size in MB", [artifact.size / 1e6 for artifact in artifacts])
    ]
    latencies = [artifact.latency_ms for artifact in artifacts]
    if any(value is not None for value in latencies):
        panels.append(("latency in ms", latencies))
    if labelled:
        panels.append(("accuracy in %", [_percent(a.comparison.accuracy) for a in artifacts]))
    elif agreeing:
        panels.append(("agreement in %", [_percent(a.comparison.agreement) for a in artifacts]))
    else:
        panels.append(("cosine", [artifact.comparison.cosine for artifact in artifacts]))
    drawing = Figure(figsize=(10, 1.2 + 0.35 * len(artifacts)), layout="constrained")
    names = [artifact.target for artifact in artifacts]
    for axes, (title, values) in zip(
        drawing.subplots(1, len(panels), sharey=True), panels, strict=True
    ):
        colors = [
            _KERAS if a.file_name is None else _BAD if a.disagreements else _BAR for a in artifacts
        ]
        axes.barh(names, [value or 0.0 for value in values], color=colors)
        for place, value in enumerate(values):
            axes.annotate(
                "–" if value is None else f" {value:.4g}", (value or 0.0, place), va="center"
            )
        axes.margins(x=0.3)
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    drawing.axes[0].invert_yaxis()
    return drawing


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def model_card(report: ExportReport) -> str:
    """The card of the exported model, in Markdown: what it is, its licence, its artifacts."""
    model = report.model
    entry = _entry(model.get("weights"))
    front = {"library_name": "keras", "pipeline_tag": "image-classification"}
    if entry is not None:
        front["license"] = entry.license.lower()
    lines = ["---", *(f"{key}: {value}" for key, value in front.items()), "---", ""]
    lines += [f"# {model['name']}", ""]
    lines += [f"{model['parameters']:,} weights; input `image`: {_words(model['input'])}.", ""]
    lines += ["RGB pixels in [0, 255]; normalisation is part of every artifact.", ""]
    if entry is not None:
        recipe = f", trained by {entry.recipe}" if entry.recipe else ""
        lines += [f"It started from the weights {entry.tag}, {entry.license}{recipe}.", ""]
        published = f"{entry.top1:g} % ({entry.accuracy_source})"
        lines += [f"Published accuracy of those weights: {published}.", ""]
    elif model.get("weights"):
        lines += [f"It started from the weights {model['weights']}, of unknown licence.", ""]
    else:
        lines += ["Licence and training data are not known to the exporter.", ""]
    lines += ["## Artifacts", "", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(cells(artifact))} |" for artifact in report.artifacts]
    lines += ["", "Latency: median of one call, on the machine that exported.", "", "## Images", ""]
    for row, _ in _images(report):
        lines.append(f"- {row[0]}: {row[2]}; images: {row[1]}; pixels: {row[3]}")
    if report.refusals:
        lines += ["", "## Not exported", ""]
        lines += [f"- {target}: {why}" for target, why in report.refusals.items()]
    return "\n".join(lines) + "\n"


def _entry(tag: Any) -> Any:
    return find_weights(tag) if tag in list_weights() else None


def _words(shape: Sequence[int | None]) -> str:
    names = ("batch", "height", "width", "channels")
    return (
        "("
        + ", ".join(str(side or name) for side, name in zip(shape, names, strict=True))
        + "), NHWC"
    )
