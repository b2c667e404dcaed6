"""Arrays of other packages, laid out for our layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from keras_resnet.blocks import NORM_EPSILON
from keras_resnet.weights.mapping import Layout, checkpoint_names

#: Epsilon of every BN of keras.applications' ResNets.
_KERAS_APPLICATIONS_EPSILON = 1.001e-5


def assign_torch(model: keras.Model, state: Mapping[str, np.ndarray], layout: Layout) -> None:
    """Sets a model's weights from a torch state dict.

    Args:
        model: a network of this package.
        state: arrays by key; convolutions `(output, input, height, width)`.
        layout: whose names the keys are.

    Raises:
        ValueError: a key is missing or left over, or an array has the wrong shape.
    """
    # How often torch has updated a BN's statistics has no counterpart.
    rest = {key for key in state if not key.endswith("num_batches_tracked")}
    arrays = {}
    for name, prefix in checkpoint_names(model, layout).items():
        layer = model.get_layer(name)
        keys = [f"{prefix}.{suffix}" for suffix in _suffixes(layer)]
        missing = [key for key in keys if key not in state]
        if missing:
            raise ValueError(
                f"Expected weights of {model.name!r} in the layout {layout!r}. "
                f"Received: none for {', '.join(missing)}"
            )
        arrays[name] = [_keras_order(state[key], len(layer.weights[0].shape)) for key in keys]
        for key, array, weight in zip(keys, arrays[name], layer.weights, strict=True):
            if array.shape != tuple(weight.shape):
                raise ValueError(
                    f"Expected an array of shape {tuple(weight.shape)}, in Keras' order, for "
                    f"{name!r} from {key!r}. Received: {array.shape}"
                )
        rest -= {*keys}
    if rest:
        raise ValueError(
            f"Expected weights of {model.name!r} only. Received: also {', '.join(sorted(rest))}"
        )
    for name, values in arrays.items():
        model.get_layer(name).set_weights(values)


def _suffixes(layer: keras.Layer) -> Sequence[str]:
    """Keys of a layer's weights, in the order of Keras."""
    if isinstance(layer, keras.layers.BatchNormalization):
        return ("weight", "bias", "running_mean", "running_var")
    return ("weight", "bias")[: len(layer.weights)]


def _keras_order(array: np.ndarray, rank: int) -> np.ndarray:
    if array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
        # A classifier may be a 1x1 convolution.
        return array[0, 0] if rank == 2 else array
    return array.T if array.ndim == 2 else array


def from_keras_applications(
    weights: Mapping[str, Sequence[np.ndarray]],
) -> dict[str, list[np.ndarray]]:
    """Weights of a keras.applications ResNet (v1 or V2), by layer, as our networks take them.

    Their convolutions before a BN have a bias, which the BN's mean makes up for: `mean - bias` does
    without it. Their BN has another epsilon: it goes into the variance.

    Args:
        weights: layer name -> its weights, as `layer.get_weights()` gives them.
    """
    result = {name: list(arrays) for name, arrays in weights.items() if len(arrays)}
    for name, arrays in result.items():
        if name.endswith("_bn"):
            arrays[3] = arrays[3] + (_KERAS_APPLICATIONS_EPSILON - NORM_EPSILON)
            conv = result.get(name.removesuffix("bn") + "conv", [])
            if len(conv) == 2:
                arrays[2] = arrays[2] - conv.pop()
    return result
