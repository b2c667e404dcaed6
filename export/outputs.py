"""What the input and the outputs of a model's artifacts are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_resnet.models.info import get_info

IMAGE = "image"
BATCH = "batch"
SIGNATURE = "serving_default"

#: What networks without a classifier end with: feature vectors, and embeddings.
_FEATURE_LAYERS = (
    *(keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D, keras.layers.Flatten),
    *(keras.layers.UnitNormalization, keras.layers.LayerNormalization),
    keras.layers.BatchNormalization,
)


def named_outputs(values: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """A model's output or outputs by name, which `output_names` gives."""
    if isinstance(values, dict):
        return {name: values[name] for name in names}
    return dict(zip(names, keras.tree.flatten(values), strict=True))


def output_names(model: Any) -> tuple[str, ...]:
    """What the outputs of a model's artifacts are called.

    That of a classifier is called `probabilities` if it ends with a softmax or sigmoid, else
    `logits`; that of a regression from `replace_head` is called `values`; other outputs have the
    keys or the names that they have in the model.

    Raises:
        ValueError: it is no Keras model with one image as its input, or it is a classifier of one
            class.
    """
    shape = getattr(model, "input_shape", None)
    if not isinstance(model, keras.Model) or not isinstance(shape, tuple) or len(shape) != 4:
        raise ValueError(
            "Expected a Keras model with one input (batch, height, width, channels). "
            f"Received: {type(model).__name__} with input {shape}"
        )
    # A `Sequential` has one output, and none that it would show.
    structure = None if isinstance(model, keras.Sequential) else model.output
    if isinstance(structure, dict):
        return tuple(structure)
    if isinstance(structure, (list, tuple)):
        return tuple(model.output_names)
    outputs = model.output_shape
    last = last_layer(model)
    if len(outputs) != 2 or isinstance(last, _FEATURE_LAYERS):
        return ("features",)
    task = get_info(model).task
    if task == "values":
        return ("values",)
    if outputs[1] is None or (outputs[1] < 2 and task != "labels"):
        raise ValueError(
            "Expected a Keras classifier of at least two classes. Received: a model that ends with "
            f"{last.name} and puts out {outputs}"
        )
    return ("probabilities" if _ends_with_probabilities(model) else "logits",)


def output_ranks(model: keras.Model, names: Sequence[str]) -> tuple[int, ...]:
    """How many dimensions the outputs have, by `names`, which are those of `output_names`."""
    if isinstance(model, keras.Sequential):
        return (len(model.output_shape),)
    return tuple(len(x.shape) for x in named_outputs(model.output, tuple(names)).values())


def classifies(names: Sequence[str], ranks: Sequence[int]) -> bool:
    """Whether outputs are those of a classifier: one, `(batch, classes)`, and called so.

    A segmenter, too, may call its map of every pixel's classes `"probabilities"`.
    """
    return tuple(names) in (("probabilities",), ("logits",)) and ranks[0] == 2


def _ends_with_probabilities(model: keras.Model) -> bool:
    """Asks the model's own answers first: rows that are not negative and sum to one.

    A softmax may come from a layer, an activation or an operation, inside another model or before a
    cast.
    """
    height, width, channels = model.input_shape[1:]
    noise = np.random.default_rng(0).uniform(0, 255, (2, height or 64, width or 64, channels))
    answers = np.asarray(model(noise.astype(np.float32), training=False), np.float64)
    if answers.min() >= 0 and np.allclose(answers.sum(-1), 1, atol=1e-2):
        return True
    activation = getattr(last_layer(model), "activation", None)
    return activation in (keras.activations.softmax, keras.activations.sigmoid)


def last_layer(model: keras.Model) -> keras.Layer:
    """The layer that was made last; where a model has one output, that is its output's."""
    layer = model.layers[-1]
    return last_layer(layer) if isinstance(layer, keras.Model) else layer
