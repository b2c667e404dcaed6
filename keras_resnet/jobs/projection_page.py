"""A map of images as figures, and as an HTML page that shows the image under the pointer."""

from __future__ import annotations

import base64
import colorsys
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from keras_resnet.images.decode import open_image
from keras_resnet.jobs.projection import NAMES, Projection, map_files
from keras_resnet.support.ahead import results_in_order
from keras_resnet.support.files import check_new, partial_directory, publish
from keras_resnet.support.pages import escaped, page
from keras_resnet.support.text import printable

#: Longer side of thumbnails in pixels, and their largest number on a page: about 2 MB.
THUMBNAIL, MOST_THUMBNAILS = 64, 1000

#: Colors of Okabe and Ito (2008), distinguishable with every kind of color blindness.
_FEW = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

#: Largest number of classes with a legend.
_MOST_IN_LEGEND = 20

#: Largest number of points that are vector shapes in the SVG file; more become pixels.
_MOST_SHAPES = 5000

_STYLE = """<style>
.map { position: relative; max-width: 45rem }
.map canvas { width: 100%; aspect-ratio: 1; border: 1px solid #d8dde6; touch-action: manipulation }
.card { position: absolute; display: none; width: 8.5rem; padding: .4rem; pointer-events: none;
  background: #fff; border: 1px solid #5b6472; font-size: .85rem; overflow-wrap: anywhere }
.card img { display: block; width: 6rem; image-rendering: auto }
.legend button { font: inherit; border: 1px solid #d8dde6; background: #fff; margin: .15rem;
  padding: .3rem .6rem; border-radius: .3rem }
.legend button[aria-pressed=true] { border-color: #1d2430; font-weight: 600 }
.legend span { display: inline-block; width: .8rem; height: .8rem; margin-right: .35rem;
  border-radius: 50% }
</style>"""

_SCRIPT = """<script>
const data = JSON.parse(document.getElementById("data").textContent);
const canvas = document.querySelector("canvas"), card = document.querySelector(".card");
const context = canvas.getContext("2d"), count = data.x.length;
const radius = count > 10000 ? 1.5 : count > 2000 ? 2.5 : 4;
const byX = [...data.x.keys()].sort((a, b) => data.x[a] - data.x[b]);
const byY = [...data.y.keys()].sort((a, b) => data.y[a] - data.y[b]);
let shown = -1, chosen = -1, places = [];
function draw() {
  const ratio = window.devicePixelRatio || 1, side = canvas.clientWidth;
  canvas.width = canvas.height = side * ratio;
  context.scale(ratio, ratio);
  const inner = side - 24;
  places = data.x.map((x, i) => [12 + x * inner, 12 + data.y[i] * inner]);
  for (let i = 0; i < count; i++) dot(i, radius, chosen >= 0 && data.label[i] !== chosen);
  if (chosen >= 0) for (let i = 0; i < count; i++) if (data.label[i] === chosen) dot(i, radius);
  if (shown >= 0) {
    dot(shown, radius + 3);
    context.strokeStyle = "#1d2430"; context.lineWidth = 2; context.stroke();
  }
}
function dot(i, size, pale) {
  context.globalAlpha = pale ? 0.12 : 0.85;
  context.fillStyle = data.colors[data.label[i]];
  context.beginPath(); context.arc(...places[i], size, 0, 7); context.fill();
}
function show(i) {
  shown = i; draw();
  card.style.display = i < 0 ? "none" : "block";
  if (i < 0) return;
  const image = document.createElement("img"), label = data.classes[data.label[i]];
  card.replaceChildren();
  if (data.thumbnails[i]) {
    image.src = "data:image/jpeg;base64," + data.thumbnails[i]; image.alt = "";
    card.append(image);
  }
  card.append(label ? label + ": " + data.names[i] : data.names[i]);
  const [x, y] = places[i], room = canvas.clientWidth;
  card.style.left = Math.max(0, Math.min(x + 14, room - card.offsetWidth)) + "px";
  card.style.top = (y > room / 2 ? y - card.offsetHeight - 14 : y + 14) + "px";
}
function nearest(event, reach) {
  const box = canvas.getBoundingClientRect();
  let best = -1, least = reach * reach;
  places.forEach(([x, y], i) => {
    const far = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
    if (far < least) { best = i; least = far; }
  });
  return best;
}
canvas.addEventListener("pointermove", (e) => e.pointerType === "mouse" && show(nearest(e, 24)));
canvas.addEventListener("pointerdown", (e) => show(nearest(e, 40)));
canvas.addEventListener("pointerleave", (e) => e.pointerType === "mouse" && show(-1));
canvas.addEventListener("focus", () => {
  if (canvas.matches(":focus-visible") && shown < 0) show(byX[0]);
});
canvas.addEventListener("blur", () => show(-1));
canvas.addEventListener("keydown", (event) => {
  const steps = {ArrowRight: [byX, 1], ArrowLeft: [byX, -1]};
  Object.assign(steps, {ArrowDown: [byY, 1], ArrowUp: [byY, -1]});
  if (event.key === "Escape") show(-1);
  if (!steps[event.key]) return;
  const [order, step] = steps[event.key], place = order.indexOf(shown) + step;
  show(order[Math.max(0, Math.min(count - 1, place))]);
  event.preventDefault();
});
for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const index = Number(button.value);
    chosen = chosen === index ? -1 : index;
    for (const b of document.querySelectorAll(".legend button"))
      b.setAttribute("aria-pressed", String(Number(b.value) === chosen));
    draw();
  });
}
new ResizeObserver(() => draw()).observe(canvas);
draw();
</script>"""


def save_projection(
    projection: Projection,
    names: Sequence[str],
    beside: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    images: Sequence[str | os.PathLike[str]] | None = None,
    overwrite: bool = False,
) -> str:
    """Write a map as PNG, SVG and a self-contained HTML page: all files, or none.

    The page shows the image of a point under the pointer, on a tap, or with the arrow keys.

    Args:
        projection: the map.
        names: names of the images for the page, one per point.
        beside: path of the file of vectors; `vectors.npz` gives `vectors.pca.png` and so on.
        labels: class of every image, used to color and highlight points; None: no classes.
        images: image files, one per point, of which up to `MOST_THUMBNAILS`, evenly spaced, become
            thumbnails of `THUMBNAIL` pixels; None: no thumbnails.
        overwrite: whether to replace existing files.

    Returns:
        A sentence about the number of points with a thumbnail.

    Raises:
        ValueError: If the length of `names`, `labels` or `images` is not the number of points.
        FileExistsError: If a file exists.
        OSError: If the disk is full or not writable.
    """
    count = len(projection.points)
    given = {"names": names, "labels": labels, "images": images}
    for argument, values in given.items():
        if values is not None and len(values) != count:
            raise ValueError(
                f"Expected one of `{argument}` per point, {count:,}. Received: {len(values):,}"
            )
    files = map_files(Path(beside), projection.method)
    for file in files.values():
        check_new(file, overwrite)
    thumbnails = _thumbnails(images or ())
    note = _about_thumbnails(len(thumbnails), count)
    classes = sorted(set(labels)) if labels is not None else [""]
    indices = np.array([classes.index(label) for label in labels or [""] * count])
    figure = projection_figure(projection, classes, indices)
    with partial_directory(files["html"].parent) as staging:
        for kind in ("png", "svg"):
            figure.savefig(staging / files[kind].name, dpi=150)
        text = _page(projection, names, classes, indices, thumbnails, note)
        (staging / files["html"].name).write_text(text, "utf-8")
        publish(staging, [file.name for file in files.values()])
    return note


def projection_figure(
    projection: Projection, classes: Sequence[str], indices: np.ndarray
) -> Figure:
    """Return the map as a figure, with a legend for up to 20 classes.

    Args:
        projection: the map.
        classes: names of the classes; `[""]` if there are no classes.
        indices: index of the class of every point, `(n,)`, int.
    """
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots()
    shapes = len(indices) <= _MOST_SHAPES
    size = 14 if shapes else 4
    for index, (name, color) in enumerate(zip(classes, _colors(len(classes)), strict=True)):
        points = projection.points[indices == index]
        axes.scatter(
            points[:, 0], points[:, 1], s=size, color=color, label=printable(name),
            linewidths=0, alpha=0.85, rasterized=not shapes,
        )  # fmt: skip
    axes.set_aspect("equal", adjustable="datalim")
    for axis, label in zip((axes.xaxis, axes.yaxis), _axis_labels(projection), strict=True):
        axis.set_label_text(label)
    if projection.explained is None:
        axes.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
    if 1 < len(classes) <= _MOST_IN_LEGEND:
        figure.legend(loc="outside right upper", frameon=False, markerscale=2)
    return figure


def _axis_labels(projection: Projection) -> tuple[str, str]:
    if projection.explained is None:
        words = f"{NAMES[projection.method]} (axes have no unit)"
        return words, ""
    first, second = projection.explained
    return (
        f"first principal component, {first:.0%} of the variance",
        f"second principal component, {second:.0%}",
    )


def _colors(count: int) -> list[str]:
    """Return a color per class, for few classes distinguishable with color blindness."""
    if count <= len(_FEW):
        return list(_FEW[:count])
    if count <= 20:
        name = "tab10" if count <= 10 else "tab20"
        return [to_hex(color) for color in colormaps[name](range(count))]
    # Classes that follow each other also differ in brightness.
    hues = [(index / count, (0.35, 0.5, 0.65)[index % 3]) for index in range(count)]
    return [to_hex(colorsys.hls_to_rgb(hue, light, 0.8)) for hue, light in hues]


def _thumbnails(images: Sequence[str | os.PathLike[str]]) -> dict[int, str]:
    """Return index -> thumbnail as base64 JPEG; unreadable images are skipped."""
    some = np.linspace(0, len(images) - 1, min(len(images), MOST_THUMBNAILS)).round().astype(int)
    found = results_in_order(_thumbnail, [images[index] for index in some], 32)
    pairs = zip(some.tolist(), found, strict=True)
    return {index: text for index, text in pairs if text is not None}


def _thumbnail(path: str | os.PathLike[str]) -> str | None:
    try:
        image = open_image(path)
    except (OSError, ValueError):
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()


def _about_thumbnails(with_one: int, count: int) -> str:
    if with_one == count:
        return f"Each of the {count:,} points has a thumbnail of {THUMBNAIL} pixels."
    return (
        f"{with_one:,} of {count:,} points have a thumbnail of {THUMBNAIL} pixels: a page has at "
        f"most {MOST_THUMBNAILS:,}, and none for unreadable images."
    )


def _page(
    projection: Projection,
    names: Sequence[str],
    classes: Sequence[str],
    indices: np.ndarray,
    thumbnails: dict[int, str],
    note: str,
) -> str:
    low = projection.points.min(axis=0)
    span = float(np.ptp(projection.points, axis=0).max())
    # Centered in a square, with the same scale for x and y; y points up.
    shift = (1 - np.ptp(projection.points, axis=0) / span) / 2
    x, y = ((projection.points - low) / span + shift).round(4).T
    data = {
        "x": x.tolist(),
        "y": (1 - y).round(4).tolist(),
        "label": indices.tolist(),
        "names": [printable(name) for name in names],
        "classes": [printable(name) for name in classes],
        "colors": _colors(len(classes)),
        "thumbnails": thumbnails,
    }
    # Escaped, so that no name can end the script element.
    text = json.dumps(data).replace("<", "\\u003c")
    buttons = (
        f'<button value="{index}" aria-pressed="false"><span style="background:{color}"></span>'
        f"{escaped(name)}</button>"
        for index, (name, color) in enumerate(zip(classes, data["colors"], strict=True))
    )
    legend = f'<p class="legend">{"".join(buttons)}</p>' if len(classes) > 1 else ""
    across, up = _axis_labels(projection)
    axes = f"Horizontal: {across}; vertical: {up}." if up else f"{across}."
    title = f"{NAMES[projection.method]} of {len(names):,} images"
    description = f"{title}. Arrow keys move from point to point."
    sections = [
        _STYLE,
        "<p>Point at a point, tap it, or move to it with the arrow keys to see its image. "
        + ("Press a class to highlight it. " if legend else "")
        + f"{escaped(axes)} {escaped(note)}</p>",
        f'<div class="map"><canvas tabindex="0" role="img" aria-label="{escaped(description)}">'
        "</canvas><div class='card' aria-live='polite'></div></div>",
        legend,
        "<noscript>This map needs JavaScript; the PNG file beside it shows the same.</noscript>",
        f'<script type="application/json" id="data">{text}</script>',
        _SCRIPT,
    ]
    return page(title, sections)
