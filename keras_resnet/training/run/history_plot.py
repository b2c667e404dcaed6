"""A plot of a training run: loss, error and learning rate by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

#: Colors of Okabe and Ito (2008), distinguishable with every kind of color blindness.
BLUE, ORANGE, GRAY = "#0072B2", "#D55E00", "#444444"

#: Largest number of epochs with markers, as more markers would hide the line.
_MOST_MARKERS = 40


def history_plot(history: Mapping[str, Sequence[float]], title: str = "") -> Figure:
    """Plot loss and error in training and validation, and the learning rate.

    The error is `100 * (1 - accuracy)`, in percent. Epochs without a finite value are gaps in the
    line, marked by crosses on the axis. Losses and learning rates that span a factor of 50 or more
    have a logarithmic axis.

    Args:
        history: quantity -> one value per epoch, for `loss`, `accuracy` in [0, 1], `val_loss`,
            `val_accuracy` and `learning_rate`, each of which may be absent.
        title: title of the figure.
    """
    columns = {name: np.asarray(values, float) for name, values in history.items()}
    for name in ("accuracy", "val_accuracy"):
        if name in columns:
            columns[name.replace("accuracy", "error")] = 100 * (1 - columns[name])
    panels = [
        ("loss", "loss", 3.0),
        ("error", "error in %", 3.0),
        ("learning_rate", "learning rate", 1.5),
    ]
    panels = [panel for panel in panels if {panel[0], f"val_{panel[0]}"} & set(columns)]
    heights = [height for *_, height in panels]
    figure = Figure(figsize=(8, sum(heights) + 0.8), layout="constrained")
    figure.suptitle(title, fontsize=12)
    rows = figure.subplots(
        len(panels), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for axes, (name, label, _) in zip(rows[:, 0], panels, strict=True):
        _draw(axes, name, columns)
        axes.set_ylabel(label)
        tidy(axes)
    figure.align_ylabels()
    last = rows[-1, 0]
    epochs = max(map(len, columns.values()))
    margin = max(0.5, 0.01 * epochs)
    last.set_xlim(1 - margin, epochs + margin)
    last.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    last.set_xlabel("epoch")
    return figure


def tidy(axes: Axes) -> None:
    """Give axes a light grid behind the lines, and no frame."""
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw(axes: Axes, name: str, columns: Mapping[str, np.ndarray]) -> None:
    """Plot a quantity in training and, if there are values, in validation."""
    is_rate = name == "learning_rate"
    styles = (
        (name, "training", GRAY if is_rate else BLUE, "-", "o", "+"),
        (f"val_{name}", "validation", ORANGE, "--", "s", "x"),
    )
    drawn = [style for style in styles if style[0] in columns]
    _scale(axes, np.concatenate([columns[key] for key, *_ in drawn]), zero=name == "error")
    for key, label, color, line, marker, cross in drawn:
        values = np.where(np.isfinite(columns[key]), columns[key], np.nan)
        epochs = np.arange(1, len(values) + 1)
        good = np.isfinite(values)
        if name == "error" and good.any():
            best = int(np.nanargmin(values))
            label = f"{label}, lowest: {values[best]:.2f} % in epoch {best + 1}"
        axes.plot(
            epochs,
            values,
            line,
            color=color,
            linewidth=1.6,
            marker=marker if len(values) <= _MOST_MARKERS else None,
            markersize=4,
            label=label,
        )
        if len(values) > _MOST_MARKERS:
            # A value between two gaps is not part of a line.
            alone = good & ~np.append(good[1:], False) & ~np.append(False, good[:-1])
            axes.plot(epochs[alone], values[alone], marker, color=color, markersize=4)
        if not good.all():
            axes.plot(
                epochs[~good],
                np.zeros((~good).sum()),
                cross,
                color=color,
                transform=axes.get_xaxis_transform(),
                clip_on=False,
                zorder=3,
                label=f"{label.partition(',')[0]}, not finite",
            )
    if not is_rate or not np.isfinite(columns[name]).all():
        axes.legend(frameon=False, fontsize=9)


def _scale(axes: Axes, values: np.ndarray, *, zero: bool) -> None:
    """Choose the scale of the values: from zero, logarithmic, or automatic."""
    finite = values[np.isfinite(values)]
    if zero:
        top = float(finite.max(initial=0.0))
        axes.set_ylim(0, min(1.05 * top, 100) if top > 0 else 1)
        return
    low, high = float(finite.min(initial=math.inf)), float(finite.max(initial=0.0))
    if 0 < low <= high / 50:
        axes.set_yscale("log")
    else:
        # An offset such as "1e-5+0.1" in the corner is easily overlooked.
        axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
