"""Figures of the studies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from keras_resnet.analysis.studies.curves import NetworkCurves, TrainingStudy
from keras_resnet.analysis.studies.gradient_study import (
    ASSUMED_FACTOR,
    GradientStudy,
    NetworkGradients,
)
from keras_resnet.analysis.studies.gradients import GradientNorms
from keras_resnet.analysis.studies.lesion import LesionStudy
from keras_resnet.analysis.studies.paths import PathStudy
from keras_resnet.analysis.studies.responses import Responses

#: Colors that are distinct with every kind of color blindness (Okabe and Ito 2008).
_BLUE, _ORANGE, _GRAY = "#0072B2", "#D55E00", "#999999"


def lesion_figure(study: LesionStudy, paths: PathStudy | None = None) -> Figure:
    """Plot the error without each block, and lesions of several blocks and paths if measured."""
    series = [("deleted blocks", study.several), ("swapped pairs", study.swapped)]
    series = [(label, lesions) for label, lesions in series if lesions]
    more = bool(series) + (paths is not None)
    figure = Figure(figsize=(9, 4 + 3.5 * more), layout="constrained")
    rows = figure.subfigures(1 + more, 1, squeeze=False)[:, 0]
    axes = rows[0].subplots()
    axes.bar(range(len(study.names)), 100 * np.array(study.errors), color=_BLUE)
    axes.axhline(100 * study.error, color=_ORANGE, label="whole network")
    axes.set_xticks(range(len(study.names)), study.names, rotation=90, fontsize=7)
    axes.set_ylabel("top-1 error in % without the block")
    axes.legend()
    if paths is not None:
        _draw_paths(rows[-1].subplots(1, 3), paths)
    if not series:
        return figure
    axes = rows[1].subplots()
    for (label, lesions), color, marker in zip(series, (_BLUE, _ORANGE), "os", strict=False):
        numbers = sorted(lesions)
        errors = [[100 * lesion.error for lesion in lesions[number]] for number in numbers]
        means, spread = [np.mean(row) for row in errors], [np.std(row) for row in errors]
        axes.errorbar(numbers, means, spread, color=color, marker=marker, label=label)
    axes.axhline(100 * study.error, color=_GRAY, label="whole network")
    axes.set(xlabel="number", ylabel="top-1 error in %")
    _use_integer_ticks(axes)
    axes.legend()
    return figure


def _draw_paths(panels: Sequence[Axes], paths: PathStudy) -> None:
    """Plot, by length, the number of paths and the gradients of a single one and of all."""
    lengths = range(len(paths.counts))
    many, (low, high) = 2 ** len(paths.blocks), paths.effective
    panels[0].bar(lengths, [count / many for count in paths.counts], color=_GRAY)
    panels[0].set_ylabel("share of all paths")
    panels[1].errorbar(lengths, paths.norms, paths.spreads, color=_BLUE, marker=".")
    panels[1].set_yscale("log", nonpositive="mask")
    panels[1].set_ylabel("gradient norm of one path")
    panels[2].bar(lengths, paths.shares, color=_BLUE, label="count x norm")
    panels[2].plot(lengths, paths.exact_shares, color=_ORANGE, marker=".", label="exact")
    panels[2].axvspan(low - 0.5, high + 0.5, color=_GRAY, alpha=0.2, label="95 %")
    panels[2].set_ylabel("share of the gradient")
    panels[2].legend(fontsize=7)
    for axes in panels:
        _use_integer_ticks(axes)
        axes.set_xlabel("residual branches on the path")


def gradients_figure(study: GradientStudy) -> Figure:
    """Plot the kernels' gradient norms by layer, before and after training, for every depth.

    Lines are geometric means over the seeds; bands reach from the smallest to the largest norm.
    """
    depths = sorted({network.depth for network in study.networks})
    figure = Figure(figsize=(10, 0.8 + 3.4 * len(depths)), layout="constrained")
    panels = figure.subplots(len(depths), 2, squeeze=False, sharey="row")
    for row, depth in zip(panels, depths, strict=True):
        of_depth = [network for network in study.networks if network.depth == depth]
        for axes, moment in zip(row, ("initial", "trained"), strict=True):
            ends = [
                _draw_norms(axes, list(kind), moment)
                for _, kind in itertools.groupby(of_depth, lambda network: network.name)
            ]
            layers = np.arange(1, of_depth[0].layers + 1)
            # The line of the assumed factor ends at the geometric mean of the ends of the lines.
            end = np.exp(np.mean([np.log(end) for end in ends if end] or [0.0]))
            assumed = end * ASSUMED_FACTOR ** (layers[-1] - layers)
            axes.plot(layers, assumed, ":", color=_GRAY, label="0.9 per layer")
            _scale_depth(axes, f"{depth} layers, {moment}")
    panels[0, 0].legend(fontsize=7)
    return figure


def _draw_norms(axes: Axes, networks: list[NetworkGradients], moment: str) -> float | None:
    """Plot the norms of one kind of network over its seeds; return the end of the line, or None."""
    found = [getattr(network, moment) for network in networks]
    norms = np.array([item.kernels for item in found if item is not None])
    if not len(norms):
        return None
    first = networks[0]
    color = _BLUE if first.shortcuts else _ORANGE
    style = "-" if first.batch_norm else "--"
    layers = np.arange(1, first.layers + 1)
    means = np.exp(np.log(np.maximum(norms, np.finfo(float).tiny)).mean(axis=0))
    axes.plot(layers, means, style, color=color, label=first.name)
    axes.fill_between(layers, norms.min(axis=0), norms.max(axis=0), color=color, alpha=0.15)
    return float(means[-1])


def gradient_norms_figure(found: GradientNorms) -> Figure:
    """Plot the gradient norms of a network's kernels and block outputs by depth."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1)
    upper.plot(range(1, len(found.layers) + 1), found.kernels, color=_BLUE, marker=".")
    _scale_depth(upper, "kernels")
    lower.plot(range(1, len(found.blocks) + 1), found.outputs, color=_BLUE, marker=".")
    _scale_depth(lower, "outputs of the blocks")
    lower.set_xlabel("block, by depth")
    return figure


def _scale_depth(axes: Axes, title: str) -> None:
    axes.set_yscale("log", nonpositive="mask")
    _use_integer_ticks(axes)
    axes.set(title=title, xlabel="convolution, by depth", ylabel="gradient norm")


def _use_integer_ticks(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def responses_figure(found: Responses) -> Figure:
    """Plot the standard deviations by depth, and in descending order."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1)
    numbers = range(1, len(found.names) + 1)
    upper.plot(numbers, found.deviations, color=_BLUE, marker=".")
    upper.set(xlabel="3x3 convolution, by depth", ylabel="standard deviation")
    lower.plot(numbers, sorted(found.deviations, reverse=True), color=_BLUE, marker=".")
    lower.set(xlabel="3x3 convolution, by its deviation", ylabel="standard deviation")
    for axes in (upper, lower):
        _use_integer_ticks(axes)
        axes.set_ylim(bottom=0)
    return figure


def filters_figure(filters: np.ndarray) -> Figure:
    """Draw a grid of kernels, as returned by `first_filters`."""
    columns = math.ceil(math.sqrt(len(filters)))
    rows = math.ceil(len(filters) / columns)
    height, width = filters.shape[1:3]
    # A white border of one pixel around each kernel.
    grid = np.ones((rows * (height + 1) + 1, columns * (width + 1) + 1, 3))
    for index, kernel in enumerate(filters):
        top, left = (height + 1) * (index // columns) + 1, (width + 1) * (index % columns) + 1
        grid[top : top + height, left : left + width] = kernel
    figure = Figure(figsize=(6, 6 * rows / columns), layout="constrained")
    axes = figure.subplots()
    axes.imshow(grid, interpolation="nearest")
    axes.set_axis_off()
    return figure


#: Colors of the networks in a panel.
_COLORS = (_ORANGE, _BLUE, "#009E73", "#CC79A7", "#000000", "#E69F00")


def degradation_figure(study: TrainingStudy) -> Figure:
    """Plot the errors by epoch of plain networks (left) and residual networks (right)."""
    plain = [network for network in study.networks if network.shortcut is None]
    residual = [network for network in study.networks if network.shortcut is not None]
    return _curves_figure({"plain": plain, "residual": residual})


def shortcuts_figure(study: TrainingStudy) -> Figure:
    """Plot the errors by epoch of the plain network and of those with options A, B and C."""
    return _curves_figure({f"{study.networks[0].depth} layers": study.networks})


def _curves_figure(panels: Mapping[str, Sequence[NetworkCurves]]) -> Figure:
    """Plot means and standard deviations over seeds: training errors dashed, test errors bold."""
    figure = Figure(figsize=(1 + 5 * len(panels), 4.5), layout="constrained")
    axes_of = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, networks) in zip(axes_of, panels.items(), strict=True):
        for index, network in enumerate(networks):
            color = _COLORS[index % len(_COLORS)]
            label = f"{network.name}: {network.error_text(network.train_error)}"
            for errors, style in (
                (network.train_errors, {"linestyle": "--", "linewidth": 1.0}),
                (network.test_errors, {"linewidth": 2.2, "label": label}),
            ):
                values = 100 * np.array(errors)
                epochs = np.arange(1, values.shape[1] + 1)
                mean = values.mean(axis=0)
                deviation = values.std(axis=0, ddof=1) if len(values) > 1 else 0 * mean
                # Mark the points of short lines; show the band of a single point as an error bar.
                marker = "o" if len(epochs) < 5 else None
                axes.plot(epochs, mean, color=color, marker=marker, **style)
                low, high = np.maximum(mean - deviation, 0), mean + deviation
                if len(epochs) == 1:
                    axes.errorbar(epochs, mean, [mean - low, high - mean], color=color, capsize=4)
                axes.fill_between(epochs, low, high, color=color, alpha=0.15, linewidth=0)
        _use_integer_ticks(axes)
        axes.set(title=title, xlabel="epoch (dashed: training, bold: test)")
        axes.legend(title="training error of the last epoch")
    axes_of[0].set_ylabel("error in %")
    axes_of[0].set_ylim(bottom=0)
    return figure
