"""Detection of models that were never trained, whose outputs look like any other."""

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

#: Initial values of a normalization layer's weights; a scale of 0 makes a block an identity.
_INITIAL = {"gamma": (0, 1), "beta": (0,), "moving_mean": (0,), "moving_variance": (1,)}


def untrained_part(model: keras.Model) -> Untrained | None:
    """Return the part of a model that still has its initial random weights.

    The first training step changes all normalization layers and the biases of the classifier. A
    model in which all of these have their initial values has never been trained.

    Args:
        model: any Keras model. A model without normalization layers is judged by its classifier
            only.

    Returns:
        `"weights"` for the whole model, `"classifier"` for the last `Dense` layer of a trained
        network, `None` if both are trained or nothing shows it.
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
        name: name of the model, for the warning.
        part: result of `untrained_part`, or `untrained` of an artifact's `ModelInfo`.
        stacklevel: as in `warnings.warn`: 1 for the caller of this function.
    """
    if part is not None:
        warnings.warn(f"{name}: {_WORDS[part]}", stacklevel=stacklevel + 1)


def untrained_reason(model: keras.Model) -> str | None:
    """Return the reason why the outputs of a model mean nothing; `None` for trained models."""
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
