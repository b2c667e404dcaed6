"""Pictures of the studies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from keras_resnet.analysis.studies.curves import NetworkCurves, TrainingStudy, in_percent
from keras_resnet.analysis.studies.lesion import LesionStudy
from keras_resnet.analysis.studies.responses import Responses

#: Of Okabe and Ito (2008), told apart with every kind of colour blindness.
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#999999"


def lesion_figure(study: LesionStudy) -> Figure:
    """Error without each block and, where they were measured, by number of deletions and swaps."""
    series = [("deleted blocks", study.several), ("swapped pairs", study.swapped)]
    series = [(label, errors) for label, errors in series if errors]
    figure = Figure(figsize=(9, 4 + 3.5 * bool(series)), layout="constrained")
    rows = figure.subplots(1 + bool(series), 1, squeeze=False)
    axes = rows[0, 0]
    axes.bar(range(len(study.names)), 100 * np.array(study.errors), color=_BLUE)
    axes.axhline(100 * study.error, color=_ORANGE, label="whole network")
    axes.set_xticks(range(len(study.names)), study.names, rotation=90, fontsize=7)
    axes.set_ylabel("top-1 error in % without the block")
    axes.legend()
    for (label, errors), colour, marker in zip(series, (_BLUE, _ORANGE), "os", strict=False):
        numbers = sorted(errors)
        means = [100 * np.mean(errors[n]) for n in numbers]
        spread = [100 * np.std(errors[n]) for n in numbers]
        rows[1, 0].errorbar(numbers, means, spread, color=colour, marker=marker, label=label)
    if series:
        rows[1, 0].axhline(100 * study.error, color=_GREY, label="whole network")
        rows[1, 0].set(xlabel="number", ylabel="top-1 error in %")
        rows[1, 0].legend()
    return figure


def responses_figure(found: Responses) -> Figure:
    """Standard deviations by depth, and in descending order."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1)
    numbers = range(1, len(found.names) + 1)
    upper.plot(numbers, found.deviations, color=_BLUE, marker=".")
    upper.set(xlabel="3x3 convolution, by depth", ylabel="standard deviation")
    lower.plot(numbers, sorted(found.deviations, reverse=True), color=_BLUE, marker=".")
    lower.set(xlabel="3x3 convolution, by its deviation", ylabel="standard deviation")
    for axes in (upper, lower):
        axes.set_ylim(bottom=0)
    return figure


def filters_figure(filters: np.ndarray) -> Figure:
    """A grid of kernels, as `first_filters` gives them."""
    columns = math.ceil(math.sqrt(len(filters)))
    rows = math.ceil(len(filters) / columns)
    height, width = filters.shape[1:3]
    # One pixel of white around each.
    grid = np.ones((rows * (height + 1) + 1, columns * (width + 1) + 1, 3))
    for index, kernel in enumerate(filters):
        top, left = (height + 1) * (index // columns) + 1, (width + 1) * (index % columns) + 1
        grid[top : top + height, left : left + width] = kernel
    figure = Figure(figsize=(6, 6 * rows / columns), layout="constrained")
    axes = figure.subplots()
    axes.imshow(grid, interpolation="nearest")
    axes.set_axis_off()
    return figure


#: Of as many networks as one panel tells apart.
_COLOURS = (_ORANGE, _BLUE, "#009E73", "#CC79A7", "#000000", "#E69F00")


def degradation_figure(study: TrainingStudy) -> Figure:
    """Errors by epoch: plain networks on the left, residual ones on the right."""
    plain = [network for network in study.networks if network.shortcut is None]
    residual = [network for network in study.networks if network.shortcut is not None]
    return _curves_figure({"plain": plain, "residual": residual})


def shortcuts_figure(study: TrainingStudy) -> Figure:
    """Errors by epoch of the plain network and of those with options A, B and C."""
    return _curves_figure({f"{study.networks[0].depth} layers": study.networks})


def _curves_figure(panels: Mapping[str, Sequence[NetworkCurves]]) -> Figure:
    """Training errors dashed, test errors bold; means with bands of a standard deviation."""
    figure = Figure(figsize=(1 + 5 * len(panels), 4.5), layout="constrained")
    axes_of = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, networks) in zip(axes_of, panels.items(), strict=True):
        for index, network in enumerate(networks):
            colour = _COLOURS[index % len(_COLOURS)]
            label = f"{network.name}: {in_percent(network.train_error)}"
            for errors, style in (
                (network.train_errors, {"linestyle": "--", "linewidth": 1.0}),
                (network.test_errors, {"linewidth": 2.2, "label": label}),
            ):
                values = 100 * np.array(errors)
                epochs = np.arange(1, values.shape[1] + 1)
                mean = values.mean(axis=0)
                deviation = values.std(axis=0, ddof=1) if len(values) > 1 else 0 * mean
                axes.plot(epochs, mean, color=colour, **style)
                low, high = np.maximum(mean - deviation, 0), mean + deviation
                axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set(title=title, xlabel="epoch (dashed: training, bold: test)")
        axes.legend(title="training error of the last epoch")
    axes_of[0].set_ylabel("error in %")
    axes_of[0].set_ylim(bottom=0)
    return figure
