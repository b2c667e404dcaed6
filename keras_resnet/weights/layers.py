"""The layers with weights in networks of this package, and the roles of their weights."""

from __future__ import annotations

from collections.abc import Container, Sequence

import keras
import numpy as np

#: Roles of a layer's weights, in the order of Keras' `layer.weights`.
CONV_ROLES = ("kernel", "bias")
NORM_ROLES = ("gamma", "beta", "moving_mean", "moving_variance")
#: torch's names -> role in a convolution or classifier, role in a normalization.
TORCH_ROLES = {
    "weight": ("kernel", "gamma"),
    "bias": ("bias", "beta"),
    "running_mean": ("moving_mean", "moving_mean"),
    "running_var": ("moving_variance", "moving_variance"),
}

#: Mean and standard deviation of each channel, for pixels in [0, 255].
Constants = tuple[Sequence[float], Sequence[float]]


def stem_name(layers: Container[str]) -> str:
    """Return the name of the first convolution of the stem."""
    return "conv1_conv" if "conv1_conv" in layers else "conv1_1_conv"


def weighted_layers(network: keras.Model) -> dict[str, keras.Layer]:
    """Return the layers with weights by name, except for the normalization of pixels."""
    layers = (layer for layer in network.layers if layer.weights)
    return {layer.name: layer for layer in layers if layer.name != "normalization"}


def roles(layer: keras.Layer) -> tuple[str, ...]:
    """Return the roles of a layer's weights, in the order of `layer.weights`."""
    norms = (keras.layers.BatchNormalization, keras.layers.GroupNormalization)
    return (NORM_ROLES if isinstance(layer, norms) else CONV_ROLES)[: len(layer.weights)]


def arrays_of(network: keras.Model) -> dict[str, dict[str, np.ndarray]]:
    """Return the weights of a network: layer -> role -> array."""
    return {
        name: dict(zip(roles(layer), map(np.asarray, layer.get_weights()), strict=True))
        for name, layer in weighted_layers(network).items()
    }


def pixel_constants(network: keras.Model) -> Constants | None:
    """Return mean and standard deviation of a network's pixels; `None` if it normalizes none."""
    for layer in network.layers:
        if layer.name == "normalization":
            config = layer.get_config()
            mean, variance = (np.ravel(config[key]) for key in ("mean", "variance"))
            return mean.tolist(), np.sqrt(variance).tolist()
    return None
