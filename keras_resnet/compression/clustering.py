"""Clustering: the weights of a layer share a few values, which make its file easy to pack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import keras
import numpy as np

from keras_resnet.compression.fusion import fused_groups
from keras_resnet.compression.layers import MOST_VALUES, compressed_layers
from keras_resnet.compression.rebuild import check_flat, check_skip, kernels, with_options

#: The most values that k-means sees: far more than clusters, far fewer than weights.
_MOST_VALUES = 8192


def cluster(
    model: keras.Model, clusters: int = 16, *, skip: Sequence[str] = (), seed: int = 0
) -> keras.Model:
    """Make a network whose layers have at most so many different weights (Han et al. 2016).

    The values are found by k-means from values at equal distances on (arXiv:1510.00149, section 3).
    Training changes the values, each by the mean of what its weights would change by, not which
    weights have which; the zeros of a pruned network stay, and count as one value. Channels whose
    batch normalization has a negative scale change their sign, and that of their weights, first,
    and scales stay positive from then on: folded into the kernel, they would double the number of
    values.

    Args:
        model: a flat network with trained weights, plain or pruned; it stays as it is.
        clusters: the most different values of a kernel, from 2 to 256, with pruning from 3.
        skip: names of layers with values of their own for each weight.
        seed: of k-means.

    Raises:
        ValueError: If an impossible number, `skip` names no layer with a kernel, or a layer is
            clustered already.
    """
    check_flat(model)
    check_skip(skip, [layer.name for layer in kernels(model)], "layers with kernels")
    chosen = [layer for layer in kernels(model) if layer.name not in skip]
    if again := [layer.name for layer in chosen if getattr(layer, "clusters", 0)]:
        raise ValueError(
            "Expected layers that have values of their own for each weight. Received: "
            f"{', '.join(again)}, clustered already. Name them in `skip`, or pass what `strip` "
            "makes of the network"
        )
    pruned = {layer.name for layer in chosen if getattr(layer, "pruned", False)}
    least = 2 + bool(pruned)
    if not least <= clusters <= MOST_VALUES:
        raise ValueError(f"Expected from {least} to {MOST_VALUES} `clusters`. Received: {clusters}")
    options: dict[str, dict[str, Any]] = {
        layer.name: {"clusters": clusters - (layer.name in pruned)} for layer in chosen
    }
    for layer in chosen:
        if getattr(layer, "rounding", None):
            # A step for each channel would make other integers of the same values.
            options[layer.name]["rounding"] = "tensor"
    norms = _norms_behind(model, [layer.name for layer in chosen])
    options |= {name: {"gamma_constraint": "non_neg"} for name in norms.values()}
    result = with_options(model, options)
    _make_positive(result, norms)
    for layer in compressed_layers(result):
        if layer.name in options:
            _assign(layer, seed)
    return result


def _norms_behind(model: keras.Model, names: Sequence[str]) -> dict[str, str]:
    """Layer -> the batch normalization with a scale that takes in what it puts out."""
    norms = {
        layer.name
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization) and layer.scale
    }
    # What else takes in what a layer puts out would see its sign change.
    pairs = [pair for group in fused_groups(model).values() for pair in pairwise(group)]
    return {before: name for before, name in pairs if before in names and name in norms}


def with_positive_scales(
    model: keras.Model, names: Sequence[str]
) -> tuple[keras.Model, tuple[str, ...]]:
    """Change the signs of channels so that no scale behind the layers `names` is negative.

    Returns:
        A copy, which computes the same, and the names of the batch normalizations behind them.
    """
    result, norms = with_options(model, {}), _norms_behind(model, names)
    _make_positive(result, norms)
    return result, tuple(norms.values())


def _make_positive(model: keras.Model, norms: Mapping[str, str]) -> None:
    """Changes the signs of channels with a negative scale; the network computes the same."""
    for layer, norm in ((model.get_layer(a), model.get_layer(b)) for a, b in norms.items()):
        signs = np.where(keras.ops.convert_to_numpy(norm.gamma) < 0, -1, 1).astype(np.float32)
        layer.kernel.assign(layer.kernel * signs)
        if layer.use_bias:
            layer.bias.assign(layer.bias * signs)
        norm.gamma.assign(norm.gamma * signs)
        norm.moving_mean.assign(norm.moving_mean * signs)


def _assign(layer: Any, seed: int) -> None:
    """Find the values of a layer and which weight has which."""
    from sklearn.cluster import KMeans

    kernel = np.asarray(keras.ops.convert_to_numpy(layer.kernel), np.float32)
    kept = kernel.ravel()
    if layer.pruned:
        kept = kept[keras.ops.convert_to_numpy(layer.mask).ravel() > 0]
    values, counts = np.unique(kept, return_counts=True)
    if len(values) > layer.clusters:
        first = np.linspace(values[0], values[-1], layer.clusters)
        values, counts = _neighbors_together(values.astype(np.float64), counts)
        found = KMeans(layer.clusters, init=first[:, None], n_init=1, random_state=seed).fit(
            values[:, None], sample_weight=counts
        )
        values = np.unique(found.cluster_centers_.ravel())
    if not len(values):
        values = np.zeros(1, np.float32)
    # Where there are fewer values than there is room for, the last one again.
    centroids = np.pad(values, (0, layer.clusters - len(values)), mode="edge").astype(np.float32)
    nearest = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, kernel)
    layer.centroids.assign(centroids)
    layer.assignments.assign(nearest.astype(np.uint8))


def _neighbors_together(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of neighbors in the place of many values in rising order, and how often they occur."""
    if len(values) <= _MOST_VALUES:
        return values, counts
    starts = np.linspace(0, len(values), _MOST_VALUES, endpoint=False).astype(int)
    sums, together = np.add.reduceat(values * counts, starts), np.add.reduceat(counts, starts)
    return sums / together, together
