"""Accuracy metrics on logits, for integer and mixed labels."""

from __future__ import annotations

from typing import Any

import keras

from keras_resnet.support.checks import check_integer
from keras_resnet.training.losses import is_sparse
from keras_resnet.training.optimizers.keras_private import set_more_is_better


def hits(y_true: Any, y_pred: Any, k: int = 1) -> Any:
    """Return whether each label is among the classes with the `k` largest logits.

    Of equal logits, the one of the first class counts as the largest, as in `argmax`. So a network
    that has collapsed to equal logits is not right for all images, which it is according to
    `keras.ops.in_top_k`. Logits that contain NaN, and labels outside `[0, classes)`, are misses.

    Args:
        y_true: integer labels `(batch,)` or `(batch, 1)`, or the shares of the classes
            `(batch, classes)`, of which the (first) largest one is the label.
        y_pred: logits `(batch, classes)`.
        k: number of classes.

    Returns:
        A boolean tensor `(batch,)`.
    """
    logits = keras.ops.cast(y_pred, "float32")
    targets = keras.ops.convert_to_tensor(y_true)
    if not is_sparse(targets, logits):
        targets = keras.ops.argmax(targets, axis=-1)
    labels = keras.ops.cast(keras.ops.reshape(targets, (-1, 1)), "int32")
    classes = keras.ops.arange(logits.shape[-1], dtype="int32")
    is_label = keras.ops.equal(classes, labels)
    own = keras.ops.sum(keras.ops.where(is_label, logits, 0.0), axis=-1, keepdims=True)
    earlier = keras.ops.logical_and(keras.ops.equal(logits, own), classes < labels)
    before = keras.ops.logical_or(logits > own, earlier)
    rank = keras.ops.sum(keras.ops.cast(before, "int32"), axis=-1)
    is_valid = keras.ops.logical_and(
        keras.ops.any(is_label, axis=-1),
        keras.ops.logical_not(keras.ops.any(keras.ops.isnan(logits), axis=-1)),
    )
    return keras.ops.logical_and(rank < k, is_valid)


@keras.saving.register_keras_serializable(package="keras_resnet")
class Accuracy(keras.metrics.MeanMetricWrapper):
    """The weighted share of images whose label is among the top `k` classes; see `hits`.

    Pass it to `compile` in `weighted_metrics`.

    Args:
        k: number of classes.
        name: name of the metric; None: `"accuracy"` for `k=1`, else for example `"top5_accuracy"`.
        dtype: dtype of the sums.
    """

    def __init__(self, k: int = 1, name: str | None = None, dtype: Any = None) -> None:
        check_integer("k", k)
        default = "accuracy" if k == 1 else f"top{k}_accuracy"
        super().__init__(hits, name=name or default, dtype=dtype, k=k)
        self.k = k
        set_more_is_better(self)

    def get_config(self) -> dict[str, Any]:
        return {"k": self.k, "name": self.name, "dtype": self.dtype}


def make_metrics(classes: int) -> list[keras.metrics.Metric]:
    """Return top-1 and, for more than five classes, top-5 accuracy, for `weighted_metrics`."""
    return [Accuracy(1), Accuracy(5)] if classes > 5 else [Accuracy(1)]
