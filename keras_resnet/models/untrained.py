"""Whether a model was ever trained: the outputs of random weights look like any others."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Literal

import keras
import numpy as np

Untrained = Literal["weights", "classifier"]

_NORMS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
)

#: What a weight of a normalization layer begins with; a scale of 0 makes a block an identity.
_INITIAL = {"gamma": (0, 1), "beta": (0,), "moving_mean": (0,), "moving_variance": (1,)}


def untrained_part(model: keras.Model) -> Untrained | None:
    """Return which part of a model still has the random weights that it was built with.

    The first training step changes what every normalization layer holds, and the biases of the
    classifier: a model in which all of these are as they were initialized has never been trained.

    Args:
        model: any Keras model. One without normalization layers is judged by its classifier alone.

    Returns:
        `"weights"`: all of the model; `"classifier"`: the last `Dense` layer, whose biases are all
        zero, on a trained network; None: neither, or there is nothing to tell it by.
    """
    layers = list(_layers(model))
    norms = [layer for layer in layers if isinstance(layer, _NORMS) and layer.weights]
    heads = [layer for layer in layers if isinstance(layer, keras.layers.Dense)][-1:]
    biases = [head.bias for head in heads if head.use_bias and head.built]
    if any(_values(bias).any() for bias in biases):
        return None
    if norms and all(map(_is_initial, norms)):
        return "weights"
    return "classifier" if biases else None


def warn_if_untrained(name: str, part: str | None, stacklevel: int = 1) -> None:
    """Warn that the outputs of a model mean nothing, if a part of it was never trained.

    Args:
        name: what the warning calls the model.
        part: of `untrained_part`, or of the `ModelInfo` of an artifact.
        stacklevel: whose line the warning names: 1 is the caller's, 2 its caller's, and so on.
    """
    if part is not None:
        warnings.warn(f"{name}: {_WORDS[part]}", stacklevel=stacklevel + 1)


def doubt(model: keras.Model) -> str | None:
    """Return why the outputs of a model mean nothing, in a sentence; None: nothing says so."""
    part = untrained_part(model)
    return None if part is None else _WORDS[part]


_WORDS = {
    "weights": "the weights are random and were never trained, so the outputs mean nothing. Train "
    "the network, or build it with `weights`; `keras-resnet weights` lists what there is",
    "classifier": "the classifier has random weights and was never trained, so its outputs mean "
    "nothing. Train the network",
}


def _layers(model: keras.Model) -> Iterator[Any]:
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _layers(layer)


def _is_initial(layer: keras.Layer) -> bool:
    return all(
        bool(np.isin(_values(weight), _INITIAL[name]).all())
        for weight in layer.weights
        if (name := weight.path.split("/")[-1]) in _INITIAL
    )


def _values(weight: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(weight), np.float32)
