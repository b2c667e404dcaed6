"""Gradients along the paths through a residual network, by length."""

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

#: A function from the gradient at the output of a function to the gradient at its input.
_Backward = Callable[[Any], Any]


@dataclass(frozen=True)
class PathStudy:
    """Gradients of the loss at the input along single paths (Veit et al. 2016).

    A path takes the residual branch of some blocks and the shortcut of all others. Its length is
    the number of residual branches. The tuples from `counts` to `exact_shares` have one entry per
    length, from 0 to the number of blocks.

    Attributes:
        blocks: names of the residual blocks.
        counts: number of paths of each length.
        samples: number of measured paths of each length.
        norms: mean norm of the gradient along a path.
        spreads: standard deviation of the norm over the measured paths.
        shares: `counts * norms` divided by its sum: the share of the gradient that all paths of a
            length carry if they do not cancel out (Veit et al. 2016, section 4.3).
        exact_shares: the share of the gradient that all paths of a length carry together, as the
            projection onto the whole gradient, computed from all paths. The shares sum to 1; they
            are negative for paths that oppose the gradient.
        effective: smallest and largest length of the shortest range with 95 % of `shares`.
        effective_paths: share of all paths whose lengths are in this range.
        images: number of images.
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
    """Measure the gradient along paths of every length through a trained residual network.

    The forward pass uses the whole network, in inference mode. The backward pass of the
    cross-entropy uses only the residual branch of the blocks on the path, and only the shortcut of
    all other blocks.

    Args:
        model: a flat residual classifier of this package.
        data: as for `lesion_study`.
        samples: number of paths to measure for each length; all paths if there are fewer.
        images: largest number of images; a random choice, which is run as one batch.
        seed: seed of the random choices.
        begin: called with one step of the work, to time it, before the work begins.
        progress: called after every length with a description and the share of the work.

    Raises:
        ValueError: the model does not fit, an argument is invalid, or the gradient is zero.

    Examples:

    ```python
    study = path_study(model, "digits")
    study.effective
    ```
    """
    check_integer("samples", samples)
    check_integer("images", images)
    network = take_apart(model)
    if plain := [block.name for block in network.blocks if block.residual is None]:
        raise ValueError(
            f"Expected a residual network. Received: {model.name!r}, whose block {plain[0]} has no "
            "shortcut"
        )
    check_has_logits(model)
    pixels, labels = given_images(model, data, seed)
    random = np.random.default_rng(seed)
    chosen = np.sort(random.choice(len(pixels), min(images, len(pixels)), replace=False))
    gradients = _Gradients(model, network, pixels[chosen], labels[chosen])
    blocks = len(network.blocks)
    paths = [_paths(random, blocks, length, samples) for length in range(blocks + 1)]
    # `by_length` takes about as long as one path per block.
    total = sum(map(len, paths)) + blocks
    begin(lambda: gradients.along(()), total, 0)
    norms: list[list[float]] = []
    for length, of_length in enumerate(paths):
        norms.append([_mean_norm(gradients.along(path)) for path in of_length])
        progress(f"paths of length {length}", sum(map(len, norms)) / total)
    exact = _projections(gradients.by_length())
    progress("sums of all paths", 1.0)
    counts = [math.comb(blocks, length) for length in range(blocks + 1)]
    # Divide integers: the number of paths through 1,000 blocks exceeds the range of a float.
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
    """A recorded forward pass, through which gradients are propagated along many paths."""

    def __init__(
        self, model: keras.Model, network: Network, images: np.ndarray, labels: np.ndarray
    ) -> None:
        x, self.stem = _recorded(network.stem, tf.constant(images, tf.float32))
        # For each block, the backward passes of its tail, its shortcut and its residual branch.
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
                "Expected images whose loss has a gradient. Received: images whose gradient is "
                "zero, as the network classifies them with a probability of 1. Choose other images"
            )

    def along(self, path: Collection[int]) -> np.ndarray:
        """Return the gradients at the input along a path.

        Args:
            path: indices of the blocks whose residual branch the path takes.
        """
        gradient = self.start
        for index, (tail, shortcut, residual) in reversed(list(enumerate(self.blocks))):
            gradient = (residual if index in path else shortcut)(tail(gradient))
        return self.stem(gradient).numpy()

    def by_length(self) -> np.ndarray:
        """Return the gradients at the input, summed by path length: `(lengths, n, h, w, channels)`.

        The sums are exact, without visiting every path: backpropagation is linear, so one sum per
        length is enough at every block.
        """
        sums = [self.start]
        for tail, shortcut, residual in reversed(self.blocks):
            before_tail = [tail(gradient) for gradient in sums]
            through_shortcut = [*map(shortcut, before_tail), None]
            through_residual = [None, *map(residual, before_tail)]
            pairs = zip(through_shortcut, through_residual, strict=True)
            sums = [b if a is None else a if b is None else a + b for a, b in pairs]
        return np.stack([self.stem(gradient).numpy() for gradient in sums])


def _recorded(function: Function, x: Any) -> tuple[Any, _Backward]:
    """Return the output of a function, and its backward pass."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = function(x)
    zero = tf.UnconnectedGradients.ZERO
    return y, lambda gradient: tape.gradient(y, x, gradient, unconnected_gradients=zero)


def _paths(
    random: np.random.Generator, blocks: int, length: int, samples: int
) -> list[tuple[int, ...]]:
    """Return different random paths of a length; all paths if there are at most `samples`."""
    if math.comb(blocks, length) <= samples:
        return list(itertools.combinations(range(blocks), length))
    found: set[tuple[int, ...]] = set()
    while len(found) < samples:
        found.add(tuple(sorted(random.choice(blocks, length, replace=False).tolist())))
    return sorted(found)


def _mean_norm(gradients: np.ndarray) -> float:
    """Return the mean norm of the gradients of the images."""
    rows = gradients.reshape(len(gradients), -1).astype(np.float64)
    return float(np.linalg.norm(rows, axis=1).mean())


def _projections(sums: np.ndarray) -> np.ndarray:
    """Return the share of each gradient in the sum of all, as its projection onto the sum."""
    rows = sums.reshape(len(sums), -1).astype(np.float64)
    whole = rows.sum(axis=0)
    return rows @ whole / (whole @ whole)


def _shortest_range(shares: np.ndarray, wanted: float) -> tuple[int, int]:
    """Return the first and last index of the shortest range of shares with at least this sum."""
    sums = np.concatenate([[0.0], np.cumsum(shares)])
    for width in range(1, len(shares) + 1):
        inside = sums[width:] - sums[:-width]
        if inside.max() >= wanted:
            first = int(inside.argmax())
            return first, first + width - 1
    raise AssertionError("shares sum to less than 1")
