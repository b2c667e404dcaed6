"""The logits of a classifier, and its loss."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_resnet.models.info import get_info
from keras_resnet.models.outputs import last_operation, output_kind

_TO_PROBABILITIES = (keras.activations.softmax, keras.activations.sigmoid)


@contextlib.contextmanager
def logits_of(model: keras.Model) -> Iterator[Callable[[Any], Any]]:
    """Return a context with a function from images to logits, in inference mode.

    Within the context, the softmax or sigmoid at the end of `model` is not applied, even by other
    models that share the layer.
    """
    last = last_operation(model)
    if isinstance(last, keras.layers.Softmax):
        last.call = lambda inputs, *_, **__: inputs
        try:
            yield lambda images: model(images, training=False)
        finally:
            del last.call
        return
    activation = getattr(last, "activation", None)
    if activation in _TO_PROBABILITIES:
        last.activation = keras.activations.linear
    try:
        yield lambda images: model(images, training=False)
    finally:
        if activation in _TO_PROBABILITIES:
            last.activation = activation


def check_has_logits(model: keras.Model) -> None:
    """Check that `logits_of` and `losses` compute the cross-entropy of a model correctly.

    Raises:
        ValueError: the model is not a classifier, or `logits_of` cannot skip the operation that
            computes its probabilities.
    """
    kind, last = output_kind(model), last_operation(model)
    activation = getattr(last, "activation", None)
    # Several sigmoid units are independent of each other: their outputs are not of one class.
    single = model.output_shape[-1] == 1
    can_be_undone = isinstance(last, keras.layers.Softmax) or activation is (
        keras.activations.sigmoid if single else keras.activations.softmax
    )
    if get_info(model).task is not None or not (
        kind == "logits" or (kind == "probabilities" and can_be_undone)
    ):
        raise ValueError(
            "Expected a single-label classifier that ends with logits, a softmax, or a sigmoid "
            f"with one unit. Received: {model.name!r}, which ends with {last.name!r}"
        )


def losses(logits: Any, labels: Any) -> Any:
    """Return the cross-entropy of every image, `(n,)`, float32.

    Args:
        logits: `(n, classes)`, or `(n, 1)`: the logit of the second of two classes.
        labels: `(n,)`, integers.
    """
    logits = tf.cast(logits, tf.float32)
    if logits.shape[-1] == 1:
        logits = tf.concat([tf.zeros_like(logits), logits], axis=-1)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
