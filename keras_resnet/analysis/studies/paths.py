"""Paths through a residual network, by length, and the gradient that they carry."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet.analysis.studies.blocks import Function, Network, take_apart
from keras_resnet.analysis.studies.images import given_images
from keras_resnet.analysis.studies.logits import check_has_logits, logits_of, losses
from keras_resnet.support.checks import check_integer
from keras_resnet.support.progress import Begin, Progress, unannounced, unseen

#: From the gradient at the output of a part to the gradient at its input.
_Backward = Callable[[Any], Any]


@dataclass(frozen=True)
class PathStudy:
    """Gradients of the loss at the image that flow along single paths (Veit et al. 2016).

    A path takes the residual branch of some blocks and the shortcut of all others; its length is
    the number of residual branches. Tuples have an entry per length, from 0 to the number of
    blocks.

    Attributes:
        blocks: names of the residual blocks.
        counts: how many paths of the length there are: binomial coefficients.
        samples: how many of them were measured; all of them where there are no more.
        norms: mean norm of the gradient along one path.
        spreads: standard deviation of the norm over the measured paths.
        shares: `counts * norms`, as a share of its sum: how much gradient all paths of a length
            carry if none cancel out (Veit et al. 2016, section 4.3).
        exact_shares: the part of the gradient itself that flows along all paths of the length
            together, as its projection onto the gradient. Computed from all paths, not from
            samples. They sum to 1, and paths that oppose the gradient make them negative.
        effective: least and greatest length of the shortest range that has 95 % of `shares`.
        effective_paths: which share of all paths has these lengths.
        images: how many images the gradients are of.
    """

    blocks: tuple[str, ...]
    counts: tuple[int, ...]
    samples: tuple[int, ...]
    norms: tuple[float, ...]
    spreads: tuple[float, ...]
    shares: tuple[float, ...]
    exact_shares: tuple[float, ...]
    effective: tuple[int, int]
    effective_paths: float
    images: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}


def path_study(
    model: keras.Model,
    data: Any,
    *,
    samples: int = 10,
    images: int = 16,
    seed: int = 0,
    begin: Begin = unannounced,
    progress: Progress = unseen,
) -> PathStudy:
    """Measures the gradient along paths of every length through a trained residual network.

    Images go forward through the whole network, in inference mode. The gradient of their
    cross-entropy goes backward through the residual branch alone of the blocks of a path, and
    through the shortcut alone of the others.

    Args:
        model: a flat residual network of this package with a classifier.
        data: as for `lesion_study`.
        samples: paths of each length that are measured.
        images: how many random images of the data are used, at most, all at once.
        seed: of the choices.
        begin: is given one step of the work, to be timed, before it begins.
        progress: is told after every length.

    Raises:
        ValueError: the model or an argument is wrong, or the gradient is zero.
    """
    check_integer("samples", samples)
    check_integer("images", images)
    network = take_apart(model)
    if plain := [block.name for block in network.blocks if block.residual is None]:
        raise ValueError(
            f"Expected a residual network. Received: {model.name!r}, whose block {plain[0]} has no "
            "shortcut, so that there is a single path"
        )
    check_has_logits(model)
    pixels, labels = given_images(model, data, seed)
    random = np.random.default_rng(seed)
    chosen = np.sort(random.choice(len(pixels), min(images, len(pixels)), replace=False))
    gradients = _Gradients(model, network, pixels[chosen], labels[chosen])
    blocks = len(network.blocks)
    paths = [_paths(random, blocks, length, samples) for length in range(blocks + 1)]
    # Sums by length take as long as about so many paths again.
    total = sum(map(len, paths)) + blocks
    begin(lambda: gradients.along(()), total, 0)
    norms: list[list[float]] = []
    for length, several in enumerate(paths):
        norms.append([_mean_norm(gradients.along(path)) for path in several])
        progress(f"paths of length {length}", sum(map(len, norms)) / total)
    exact = _projections(gradients.by_length())
    progress("sums of all paths", 1.0)
    counts = [math.comb(blocks, length) for length in range(blocks + 1)]
    # Integers: of 1,000 blocks there are more paths than a float can hold.
    frequencies = np.array([count / 2**blocks for count in counts])
    means = np.array([np.mean(values) for values in norms])
    shares = frequencies * means / (frequencies * means).sum()
    low, high = _shortest_range(shares, 0.95)
    return PathStudy(
        tuple(block.name for block in network.blocks),
        tuple(counts),
        tuple(map(len, norms)),
        tuple(means.tolist()),
        tuple(float(np.std(values)) for values in norms),
        tuple(shares.tolist()),
        tuple(exact.tolist()),
        (low, high),
        float(frequencies[low : high + 1].sum()),
        len(chosen),
    )


class _Gradients:
    """One forward pass, recorded part by part, through which gradients go backward many times."""

    def __init__(
        self, model: keras.Model, network: Network, images: np.ndarray, labels: np.ndarray
    ) -> None:
        x, self.stem = _recorded(network.stem, tf.constant(images, tf.float32))
        # Each: the backward passes of its tail, its shortcut and its residual branch.
        self.blocks: list[tuple[_Backward, _Backward, _Backward]] = []
        for block in network.blocks:
            assert block.shortcut is not None
            assert block.residual is not None
            bypass, through_shortcut = _recorded(block.shortcut, x)
            residual, through_residual = _recorded(block.residual, x)
            x, through_tail = _recorded(block.tail, bypass + residual)
            self.blocks.append((through_tail, through_shortcut, through_residual))
        with logits_of(model):
            loss, through_head = _recorded(lambda x: losses(network.head(x), labels), x)
        self.start = through_head(tf.ones_like(loss))
        if not np.any(self.start):
            raise ValueError(
                "Expected images whose loss has a gradient. Received: images that the network is "
                "so sure of that it is zero"
            )

    def along(self, path: Collection[int]) -> np.ndarray:
        """Gradients at the images along a path, given as the blocks whose residual it takes."""
        gradient = self.start
        for index, (tail, shortcut, residual) in reversed(list(enumerate(self.blocks))):
            gradient = (residual if index in path else shortcut)(tail(gradient))
        return self.stem(gradient).numpy()

    def by_length(self) -> np.ndarray:
        """Gradients at the images, summed over all paths of each length: `(lengths, n, h, w, c)`.

        Exact, and without visiting every path: behind each block, all paths of one length that end
        there have one sum.
        """
        sums = [self.start]
        for tail, shortcut, residual in reversed(self.blocks):
            behind = [tail(gradient) for gradient in sums]
            through_shortcut = [*map(shortcut, behind), None]
            through_residual = [None, *map(residual, behind)]
            pairs = zip(through_shortcut, through_residual, strict=True)
            sums = [b if a is None else a if b is None else a + b for a, b in pairs]
        return np.stack([self.stem(gradient).numpy() for gradient in sums])


def _recorded(function: Function, x: Any) -> tuple[Any, _Backward]:
    """Return the outputs of a function, and its backward pass."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = function(x)
    zero = tf.UnconnectedGradients.ZERO
    return y, lambda gradient: tape.gradient(y, x, gradient, unconnected_gradients=zero)


def _paths(
    random: np.random.Generator, blocks: int, length: int, samples: int
) -> list[tuple[int, ...]]:
    """So many different random paths of a length; all, if there are no more."""
    if math.comb(blocks, length) <= samples:
        return list(itertools.combinations(range(blocks), length))
    found: set[tuple[int, ...]] = set()
    while len(found) < samples:
        found.add(tuple(sorted(random.choice(blocks, length, replace=False).tolist())))
    return sorted(found)


def _mean_norm(gradients: np.ndarray) -> float:
    """Mean over images of the norms of their gradients."""
    rows = gradients.reshape(len(gradients), -1).astype(np.float64)
    return float(np.linalg.norm(rows, axis=1).mean())


def _projections(sums: np.ndarray) -> np.ndarray:
    """The share of each of several gradients in their sum, along the direction of the sum."""
    rows = sums.reshape(len(sums), -1).astype(np.float64)
    whole = rows.sum(axis=0)
    return rows @ whole / (whole @ whole)


def _shortest_range(shares: np.ndarray, wanted: float) -> tuple[int, int]:
    """First and last index of the shortest range of shares with at least the wanted sum."""
    sums = np.concatenate([[0.0], np.cumsum(shares)])
    for width in range(1, len(shares) + 1):
        inside = sums[width:] - sums[:-width]
        if inside.max() >= wanted:
            first = int(inside.argmax())
            return first, first + width - 1
    raise AssertionError("shares sum to less than 1")
