"""The outputs of a model: their structure, and the meaning of their numbers."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np

from keras_resnet.models.info import get_info, set_info
from keras_resnet.networks.graph import only

#: Last layers of networks without a classifier, which return feature vectors or embeddings.
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
    """Return the model with a single input and output as tensors, not in a list, tuple or dict.

    The result shares layers, weights and information with `model`; it is `model` itself if nothing
    is to be changed. A single feature map stays in its dict, as the key is its name.
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
    """Return the kind of a model's single output; `None` for several outputs or named feature maps.

    - `"probabilities"` or `"logits"` of a classifier: `(batch, classes)`, or `(batch, 1)` for the
      second of two classes, after or before a sigmoid.
    - `"values"` of a regression. A single unit without an activation is a regression, unless the
      model has names of two classes or was built by `keras_resnet.build`.
    - `"features"` of a model without a classifier.

    Args:
        model: a model with one image as its input.

    Raises:
        ValueError: the output is one number that is always 1, or a classifier has a single unit
            with another activation than a sigmoid.
    """
    model = bare(model)
    # A `Sequential` has a single output, but may lack the attribute `output`.
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
    """Raise ValueError if a model with a single output unit ends with a softmax.

    Args:
        end: last operation of the model, from `last_operation`.
    """
    is_softmax = getattr(end, "activation", None) is keras.activations.softmax
    if is_softmax or type(end).__name__ == "Softmax":
        raise ValueError(
            "Expected a sigmoid after a single unit, or two units. Received: a model that ends "
            f"with {end.name}, a softmax of one number, which is always 1"
        )


def class_probabilities(values: np.ndarray, *, logits: bool, pairs: bool) -> np.ndarray:
    """Convert outputs of a classifier to probabilities `(n, classes)`.

    Args:
        values: outputs, `(n, units)`.
        logits: whether the outputs are logits.
        pairs: whether a single unit stands for the second of two classes.
    """
    if pairs and values.shape[-1] == 1:
        values = np.concatenate([0 * values if logits else 1 - values, values], axis=-1)
    if not logits:
        return values
    # In NumPy, as TensorFlow would occupy a GPU for it.
    exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _ends_with_probabilities(model: keras.Model) -> bool:
    """Return whether a model ends with probabilities: its outputs on noise, or its activation, do.

    The outputs are checked first, because a softmax may be a layer, an activation or an operation,
    inside of another model or before a cast.
    """
    height, width, channels = model.input_shape[1:]
    noise = np.random.default_rng(0).uniform(0, 255, (2, height or 64, width or 64, channels))
    answers = model(noise.astype(np.float32), training=False)
    answers = np.asarray(keras.ops.convert_to_numpy(answers), np.float64)
    if answers.min() >= 0 and np.allclose(answers.sum(-1), 1, atol=1e-2):
        return True
    return getattr(last_operation(model), "activation", None) in _SHARES


def last_operation(model: keras.Model) -> Any:
    """Return the layer or operation that computes a model's single output.

    Models inside of `model` are searched, too. Operations at the end that keep the numbers, such as
    casts and linear activations, are skipped.
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
