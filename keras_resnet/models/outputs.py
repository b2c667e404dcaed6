"""The outputs of a model: their structure, and the meaning of their numbers."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np

from keras_resnet.models.info import get_info, set_info
from keras_resnet.networks.graph import only

#: What networks without a classifier end with: feature vectors, and embeddings.
_FEATURE_LAYERS = (
    *(keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D, keras.layers.Flatten),
    *(keras.layers.UnitNormalization, keras.layers.LayerNormalization),
    keras.layers.BatchNormalization,
)

_SIGMOIDS = (
    *(keras.activations.sigmoid, keras.activations.hard_sigmoid),
    *(keras.ops.sigmoid, keras.ops.hard_sigmoid),
)
_SHARES = (keras.activations.softmax, keras.activations.sigmoid)

OutputKind = Literal["probabilities", "logits", "values", "features"]


def bare(model: keras.Model) -> keras.Model:
    """The model with its only input and its only output as tensors, not in a list, tuple or dict.

    Layers, weights and what the model knows about itself are shared; a model that is so already is
    returned as it is. One feature map in a dict stays there, as the key is its name.
    """
    if not hasattr(model, "operations"):  # A `Sequential`, or a subclass without a graph.
        return model
    image, output = only(model.input), only(model.output)
    if isinstance(model.output, dict) and len(getattr(output, "shape", ())) != 2:
        output = model.output
    if image is model.input and output is model.output:
        return model
    result = keras.Model(image, output, name=model.name)
    set_info(result, get_info(model))
    return result


def output_kind(model: keras.Model) -> OutputKind | None:
    """Return the kind of a model's only output; None for several outputs or named feature maps.

    `"probabilities"` and `"logits"` are those of a classifier, `(batch, classes)`, or `(batch, 1)`
    of the second of two classes, which a sigmoid makes probabilities. `"values"` are those of a
    regression. One unit without an activation is a regression, unless the model has names of two
    classes or is of `keras_resnet.build`.

    Args:
        model: with one image as its input.

    Raises:
        ValueError: it puts out one number that is always 1; or is a classifier of one unit with
            another activation than a sigmoid.
    """
    model = bare(model)
    # A `Sequential` has one output, and none that it would show.
    if not isinstance(model, keras.Sequential) and isinstance(model.output, (dict, list, tuple)):
        return None
    shape, last, info = model.output_shape, last_operation(model), get_info(model)
    if len(shape) != 2 or shape[1] is None or isinstance(last, _FEATURE_LAYERS):
        return "features"
    if info.task == "values":
        return "values"
    if shape[1] > 1:
        return "probabilities" if _ends_with_probabilities(model) else "logits"
    check_single_unit(last)
    activation = getattr(last, "activation", None)
    if activation in _SIGMOIDS or type(last).__name__ in ("Sigmoid", "HardSigmoid"):
        return "probabilities"
    if info.class_names is None and info.config is None:
        return "values"
    if activation is keras.activations.linear:
        return "logits"
    raise ValueError(
        "Expected a classifier of one unit that ends with a sigmoid or without an activation. "
        f"Received: {model.name}, which ends with {last.name}"
    )


def check_single_unit(end: Any) -> None:
    """Refuses a softmax at the end of a model that puts out one number.

    Raises:
        ValueError: `end`, of `last_operation`, is one.
    """
    is_softmax = getattr(end, "activation", None) is keras.activations.softmax
    if is_softmax or type(end).__name__ == "Softmax":
        raise ValueError(
            "Expected a sigmoid behind a single unit, or two units. Received: a model that ends "
            f"with {end.name}, a softmax of one number, which is always 1"
        )


def class_probabilities(values: np.ndarray, *, logits: bool, pairs: bool) -> np.ndarray:
    """Probabilities `(n, classes)` of what a classifier puts out.

    Args:
        values: `(n, units)`.
        logits: whether they are logits.
        pairs: whether a single unit is that of the second of two classes.
    """
    if pairs and values.shape[-1] == 1:
        values = np.concatenate([0 * values if logits else 1 - values, values], axis=-1)
    if not logits:
        return values
    # In NumPy: TensorFlow would take a GPU for it.
    exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _ends_with_probabilities(model: keras.Model) -> bool:
    """Asks the model's own answers first: rows that are not negative and sum to one.

    A softmax may come from a layer, an activation or an operation, inside another model or before a
    cast.
    """
    height, width, channels = model.input_shape[1:]
    noise = np.random.default_rng(0).uniform(0, 255, (2, height or 64, width or 64, channels))
    answers = model(noise.astype(np.float32), training=False)
    answers = np.asarray(keras.ops.convert_to_numpy(answers), np.float64)
    if answers.min() >= 0 and np.allclose(answers.sum(-1), 1, atol=1e-2):
        return True
    return getattr(last_operation(model), "activation", None) in _SHARES


def last_operation(model: keras.Model) -> Any:
    """Return the layer or operation that computes a model's only output, inside another model, too.

    What hands on the same numbers behind it, such as casts, which are linear activations, is passed
    over.
    """
    operations = list(getattr(model, "operations", model.layers))
    while len(operations) > 1 and _hands_on(operations[-1]):
        operations.pop()
    last = operations[-1]
    return last_operation(last) if isinstance(last, keras.Model) else last


def _hands_on(operation: Any) -> bool:
    is_activation = isinstance(operation, keras.layers.Activation)
    is_cast = is_activation and operation.activation is keras.activations.linear
    return is_cast or type(operation).__name__ in ("Cast", "Identity", "Reshape")
