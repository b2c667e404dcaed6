"""Diagram of a network's blocks, in the style of Figure 3 of He et al. 2015."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from keras_resnet.analysis.complexity import complexity, summarize
from keras_resnet.networks.config import ResNetConfig
from keras_resnet.networks.plan import BlockPlan, Conv, NetworkPlan, plan
from keras_resnet.support.files import whole_file

#: In networks with more convolutions, consecutive equal blocks are drawn once.
MOST_CONVOLUTIONS = 64

_FORMATS = (".png", ".svg")


def draw(
    config: ResNetConfig,
    path: Path,
    name: str,
    input_shape: tuple[int, int, int] | None = None,
    classes: int | None = None,
) -> None:
    """Draw the convolutions and shortcuts of a network, and the shapes of its stages.

    Identity shortcuts are solid; shortcuts that change the shape or project are dotted, as in the
    paper.

    Args:
        config: the network.
        path: the `.png` or `.svg` file to write; an existing file is replaced.
        name: title of the diagram.
        input_shape: `(height, width, channels)`; by default that of the config's data set.
        classes: number of classes; by default that of the config's data set.

    Raises:
        ValueError: the path has another suffix or cannot be written to.
    """
    if path.suffix not in _FORMATS:
        raise ValueError(f"Expected a path that ends in .png or .svg. Received: {path}")
    side = config.default_size
    shape = input_shape or (side, side, 3)
    network = plan(config, shape[-1])
    cost = complexity(config, shape, classes)
    parts = summarize(config, shape, classes)
    figure = Figure(layout="constrained")
    axes = figure.add_subplot()
    column = _Column(axes, network, {part.name: part.output_shape for part in parts})
    figure.set_size_inches(6.5, column.height * 0.3 + 1)
    axes.set(xlim=(-4.2, 6.2), ylim=(column.height + 0.5, -1.5))
    axes.axis("off")
    axes.set_title(
        f"{name}: {cost.depth} weighted layers, {cost.params / 1e6:.1f} M parameters, "
        f"{cost.macs / 1e9:.2f} G multiply-accumulates",
        fontsize=10,
    )
    with whole_file(path) as partial:
        # Without the date, diagrams of equal networks are equal files.
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(partial, dpi=120, metadata=metadata)


class _Column:
    """A column of boxes, from the input of a network to its output, with shortcuts beside them.

    Attributes:
        height: the vertical position of the next box, from 0 at the top.
    """

    def __init__(self, axes: Any, network: NetworkPlan, shapes: dict[str, tuple[int, ...]]) -> None:
        self._axes = axes
        self._colors = colormaps["Pastel1"].colors  # type: ignore[attr-defined]
        self._bottom: float | None = None
        self.height = 0.0
        sizes = {part: "×".join(map(str, shape)) for part, shape in shapes.items()}
        for conv in network.stem:
            self._box(_words(conv), 0)
        self._stage("conv1", sizes["conv1"])
        if network.pool is not None:
            self._box("3x3 max pool, /2" + ", blurred" * network.pool_blur, 0)
            self._stage("pool1", sizes["pool1"])
        convolutions = sum(len(block.convs) for block in network.blocks)
        for index, stage in enumerate(network.stages, start=1):
            for block, count in _runs(stage.blocks, convolutions > MOST_CONVOLUTIONS):
                self._block(block, count, index)
            self._stage(f"{stage.name}_x", sizes[f"{stage.name}_x"])
        if network.final_norm is not None:
            self._box("norm, ReLU", len(network.stages))
        self._box("average pool", 0)
        self._box(f"dense, {shapes['head'][0]}", 0)

    def _box(self, text: str, stage: int) -> None:
        color = self._colors[stage % len(self._colors)] if stage else "white"
        style = "round,pad=0,rounding_size=0.15"
        box = FancyBboxPatch(
            (-1.8, self.height), 3.6, 1, boxstyle=style, facecolor=color, edgecolor="0.3"
        )
        self._axes.add_patch(box)
        self._axes.text(0, self.height + 0.5, text, ha="center", va="center", fontsize=8)
        if self._bottom is not None:
            _arrow(self._axes, [(0, self._bottom), (0, self.height)])
        self._bottom = self.height + 1
        self.height += 1.5

    def _stage(self, name: str, size: str) -> None:
        words, height = f"{name}\n{size}", self.height - 1
        self._axes.text(-4.1, height, words, ha="left", va="center", fontsize=8, color="0.35")
        self.height += 0.3

    def _block(self, block: BlockPlan, count: int, stage: int) -> None:
        top = self.height - 0.25
        if block.preactivation == "own":
            self._box("norm, ReLU", stage)
            if block.shortcut != "identity":
                top = self.height - 0.25
        for conv in block.convs:
            self._box(_words(conv), stage)
        if block.gate is not None:
            self._box(block.gate.words, stage)
        bottom = self.height - 0.25
        middle = (top + bottom) / 2
        if block.shortcut is not None:
            dotted = block.shortcut != "identity" or block.strides > 1
            _arrow(self._axes, [(0, top), (3.0, top), (3.0, bottom), (0, bottom)], dotted)
            self._axes.text(3.4, middle, _shortcut_words(block), va="center", fontsize=7)
        if count > 1:
            self._axes.text(-2.1, middle, f"× {count}", ha="right", va="center", fontsize=9)
        self.height += 0.2


def _arrow(axes: Any, points: list[tuple[float, float]], dotted: bool = False) -> None:
    """Draw a line through `points` that ends in an arrow head."""
    style: dict[str, Any] = {"color": "0.2", "linestyle": ":" if dotted else "-", "zorder": 0}
    axes.plot(*zip(*points, strict=True), linewidth=1, **style)
    axes.add_patch(
        FancyArrowPatch(
            *points[-2:], arrowstyle="-|>", mutation_scale=7, shrinkA=0, shrinkB=0, **style
        )
    )


def _runs(blocks: Sequence[BlockPlan], collapse: bool) -> list[tuple[BlockPlan, int]]:
    """Return blocks and their repetitions; `collapse`: merge consecutive blocks that look equal."""

    def appearance(block: BlockPlan) -> Any:
        words = [_words(conv) for conv in block.convs]
        return words, _shortcut_words(block), block.preactivation, block.gate and block.gate.words

    if not collapse:
        return [(block, 1) for block in blocks]
    runs = [list(run) for _, run in itertools.groupby(blocks, appearance)]
    return [(run[0], len(run)) for run in runs]


def _words(conv: Conv) -> str:
    """Describe a convolution as the paper does: `3x3 conv, 128, /2`."""
    details = [f"{conv.kernel_size}x{conv.kernel_size} conv", str(conv.filters)]
    if conv.groups > 1:
        details.append(f"{conv.groups} groups")
    if conv.strides > 1 or conv.blur:
        strides = f"/{conv.strides} " if conv.strides > 1 else ""
        details.append((strides + "blurred" * conv.blur).strip())
    if conv.dilation > 1:
        details.append(f"dilated {conv.dilation}")
    return ", ".join(details)


def _shortcut_words(block: BlockPlan) -> str:
    if block.projection is not None:
        average = block.average_strides
        pool = "" if average is None else f"2x2 average pool, /{average},\n"
        return pool + _words(block.projection)
    words = {"identity": "", "zero_padded": "zero-padded"}[block.shortcut or "identity"]
    if block.strides > 1:
        words += ", " * bool(words) + f"every {block.strides}nd pixel"
    return words
