"""Clustering: the weights of a layer share a few values, so its file compresses well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import keras
import numpy as np

from keras_resnet.compression.fusion import fused_groups
from keras_resnet.compression.layers import MOST_VALUES, compressed_layers
from keras_resnet.compression.rebuild import check_flat, check_skip, kernels, with_options

#: Largest number of values passed to k-means: far more than clusters, far fewer than weights.
_MOST_INPUTS = 8192


def cluster(
    model: keras.Model, clusters: int = 16, *, skip: Sequence[str] = (), seed: int = 0
) -> keras.Model:
    """Return a copy of a network in which the weights of a layer share a few values.

    The shared values are found by k-means, initialized with equidistant values (Han et al. 2016,
    arXiv:1510.00149, section 3). Training changes a shared value by the mean update of its weights,
    but not the assignment of weights to values. Zeros of a pruned network stay zero and count as
    one value. Channels whose batch normalization has a negative scale first change their sign, and
    scales stay non-negative in training: folded into kernels, negative scales would double the
    number of values.

    Args:
        model: a flat network with trained weights, plain or pruned; it is not changed.
        clusters: largest number of different values of a kernel, from 2 to 256; from 3 if a layer
            is pruned.
        skip: names of layers that are not clustered.
        seed: random seed of k-means.

    Returns:
        The clustered network, with layers of the same names.

    Raises:
        ValueError: If `clusters` is out of range, `skip` contains a name that is not a layer with a
            kernel, or a layer is already clustered.

    Examples:
        >>> clustered = cluster(model, 16)
        >>> train(clustered, "digits", "finetune", epochs=3)
        >>> plain = strip(clustered)
    """
    check_flat(model)
    check_skip(skip, [layer.name for layer in kernels(model)], "layers with kernels")
    chosen = [layer for layer in kernels(model) if layer.name not in skip]
    if again := [layer.name for layer in chosen if getattr(layer, "clusters", 0)]:
        raise ValueError(
            f"Expected layers that are not clustered. Received: {', '.join(again)}, which already "
            "are. Name them in `skip`, or pass the network through `strip` first"
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
            # With one step per channel, equal values would become different integers.
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
    """Return layer -> the batch normalization with a scale that directly follows it."""
    norms = {
        layer.name
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization) and layer.scale
    }
    # Only if nothing else uses the output of the layer, whose sign changes.
    pairs = [pair for group in fused_groups(model).values() for pair in pairwise(group)]
    return {before: name for before, name in pairs if before in names and name in norms}


def with_positive_scales(
    model: keras.Model, names: Sequence[str]
) -> tuple[keras.Model, tuple[str, ...]]:
    """Change the signs of channels so that no scale after the layers `names` is negative.

    Returns:
        An equivalent copy of the network, and the names of the batch normalization layers after
        these layers.
    """
    result, norms = with_options(model, {}), _norms_behind(model, names)
    _make_positive(result, norms)
    return result, tuple(norms.values())


def _make_positive(model: keras.Model, norms: Mapping[str, str]) -> None:
    """Change the signs of channels with a negative scale, without changing the network's output."""
    for layer, norm in ((model.get_layer(a), model.get_layer(b)) for a, b in norms.items()):
        signs = np.where(keras.ops.convert_to_numpy(norm.gamma) < 0, -1, 1).astype(np.float32)
        layer.kernel.assign(layer.kernel * signs)
        if layer.use_bias:
            layer.bias.assign(layer.bias * signs)
        norm.gamma.assign(norm.gamma * signs)
        norm.moving_mean.assign(norm.moving_mean * signs)


def _assign(layer: Any, seed: int) -> None:
    """Find the shared values of a layer and assign its weights to them."""
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
    # If there are fewer values than clusters, the last one is repeated.
    centroids = np.pad(values, (0, layer.clusters - len(values)), mode="edge").astype(np.float32)
    nearest = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, kernel)
    layer.centroids.assign(centroids)
    layer.assignments.assign(nearest.astype(np.uint8))


def _neighbors_together(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Replace many ascending values by means of adjacent ones, and add up their counts."""
    if len(values) <= _MOST_INPUTS:
        return values, counts
    starts = np.linspace(0, len(values), _MOST_INPUTS, endpoint=False).astype(int)
    sums, together = np.add.reduceat(values * counts, starts), np.add.reduceat(counts, starts)
    return sums / together, together
