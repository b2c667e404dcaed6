"""Losses on logits, for integer and mixed labels, without label smoothing in validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np

from keras_resnet.support.checks import check_number
from keras_resnet.training.recipes.parts import LossConfig


def is_sparse(targets: Any, logits: Any) -> bool:
    """Return whether targets are labels `(batch,)` or `(batch, 1)`, not shares `(batch, classes)`.

    Only static shapes are used, so a compiled model can take shares in training and labels in
    validation.
    """
    return len(targets.shape) == 1 or (targets.shape[-1] == 1 and logits.shape[-1] != 1)


def shares_of(targets: Any, logits: Any) -> Any:
    """Return the share of every class in the targets.

    Labels outside `[0, classes)` become rows of NaN, so that the loss is NaN instead of a plausible
    number.

    Args:
        targets: labels or shares; see `is_sparse`.
        logits: logits `(batch, classes)`.

    Returns:
        A float32 tensor `(batch, classes)`.
    """
    if not is_sparse(targets, logits):
        return keras.ops.cast(targets, "float32")
    classes = logits.shape[-1]
    labels = keras.ops.cast(keras.ops.reshape(targets, (-1, 1)), "int32")
    one_hot = keras.ops.cast(keras.ops.equal(labels, keras.ops.arange(classes)), "float32")
    is_class = keras.ops.logical_and(labels >= 0, labels < classes)
    return keras.ops.where(is_class, one_hot, float("nan"))


class _SmoothedLoss(keras.losses.Loss):
    """Base class of the losses: smoothed targets and class weights, in float32."""

    own_name: str

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        # Keras casts logits and targets to the dtype of the loss: float32 under every policy.
        super().__init__(name=name or self.own_name, reduction=reduction, dtype="float32")
        check_number("label_smoothing", label_smoothing, 0, 1)
        for weight in class_weights or ():
            check_number("class_weights", weight)
        self.label_smoothing = float(label_smoothing)
        self.class_weights = None if class_weights is None else [float(w) for w in class_weights]

    def weighted(self, losses: Any, y_true: Any, y_pred: Any) -> Any:
        """Multiply losses `(batch,)` by the class weights, averaged for mixed images."""
        if self.class_weights is None:
            return losses
        if len(self.class_weights) != y_pred.shape[-1]:
            raise ValueError(
                f"Expected {y_pred.shape[-1]} `class_weights`, one per class. Received: "
                f"{len(self.class_weights)}"
            )
        weights = keras.ops.convert_to_tensor(self.class_weights, "float32")
        return losses * keras.ops.sum(shares_of(y_true, y_pred) * weights, axis=-1)

    def targets(self, y_true: Any, y_pred: Any) -> Any:
        """Return smoothed shares `(batch, classes)`: `(1 - a) * share + a / classes`."""
        shares = shares_of(y_true, y_pred)
        if not self.label_smoothing:
            return shares
        return (1.0 - self.label_smoothing) * shares + self.label_smoothing / y_pred.shape[-1]

    def get_config(self) -> dict[str, Any]:
        own = {"label_smoothing": self.label_smoothing, "class_weights": self.class_weights}
        return {**super().get_config(), **own}

    def for_evaluation(self) -> Self:
        """Return the loss without label smoothing and class weights."""
        plain = {"label_smoothing": 0.0, "class_weights": None}
        return type(self).from_config({**self.get_config(), **plain})


@keras.saving.register_keras_serializable(package="keras_resnet")
class CrossEntropy(_SmoothedLoss):
    """Cross-entropy of the softmax, for mutually exclusive classes.

    `y_true` contains integer labels `(batch,)` or `(batch, 1)`, or the shares of the classes in
    mixed images `(batch, classes)`; `y_pred` contains logits `(batch, classes)`. The loss is
    computed in float32 whatever their dtypes. Labels outside `[0, classes)` give NaN.

    Args:
        label_smoothing: share of the target that is spread over all classes, for integer and mixed
            labels alike (Szegedy et al. 2016, section 7), in [0, 1]. It is also applied by
            `keras.Model.evaluate`, but not by `TrainedModel.evaluate`.
        class_weights: one weight per class; None: all classes have the same weight.
        name: name of the loss.
        reduction: as in `keras.losses.Loss`.
    """

    own_name = "cross_entropy"

    def call(self, y_true: Any, y_pred: Any) -> Any:
        losses = keras.ops.categorical_crossentropy(
            self.targets(y_true, y_pred), y_pred, from_logits=True
        )
        return self.weighted(losses, y_true, y_pred)


@keras.saving.register_keras_serializable(package="keras_resnet")
class BinaryCrossEntropy(_SmoothedLoss):
    """Cross-entropy of the sigmoid of every class, averaged over the classes.

    It treats every class separately, for mixed images (Wightman et al. 2021, "ResNet strikes back",
    section 2). As in timm, in whose terms their recipes are given, the loss is the mean over images
    and classes, not the sum over classes. `y_true` and `y_pred` are those of `CrossEntropy`.

    Args:
        label_smoothing: as for `CrossEntropy`: the target of an image's class is
            `1 - a + a / classes`, that of all others `a / classes`.
        target_threshold: smoothed shares above this threshold become 1, all others 0. None: they
            are not changed.
        class_weights: as for `CrossEntropy`.
        **keywords: `name` and `reduction`, as for `CrossEntropy`.

    Raises:
        ValueError: When the loss is called, if the threshold is outside the range of the smoothed
            targets of an integer label.
    """

    own_name = "binary_cross_entropy"

    def __init__(
        self,
        label_smoothing: float = 0.0,
        target_threshold: float | None = None,
        class_weights: Sequence[float] | None = None,
        **keywords: Any,
    ) -> None:
        super().__init__(label_smoothing, class_weights, **keywords)
        if target_threshold is not None:
            check_number("target_threshold", target_threshold, 0, 1)
        self.target_threshold = target_threshold

    def targets(self, y_true: Any, y_pred: Any) -> Any:
        targets = super().targets(y_true, y_pred)
        if self.target_threshold is None:
            return targets
        off = self.label_smoothing / y_pred.shape[-1]
        on = 1.0 - self.label_smoothing + off
        if not off <= self.target_threshold < on:
            raise ValueError(
                f"Expected `target_threshold` to be at least {off:g} and less than {on:g}, the "
                f"targets 0 and 1 after `label_smoothing`. Received: {self.target_threshold:g}"
            )
        above = keras.ops.cast(targets > self.target_threshold, "float32")
        return keras.ops.where(keras.ops.isnan(targets), targets, above)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        losses = keras.ops.binary_crossentropy(
            self.targets(y_true, y_pred), y_pred, from_logits=True
        )
        return self.weighted(keras.ops.mean(losses, axis=-1), y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "target_threshold": self.target_threshold}


@keras.saving.register_keras_serializable(package="keras_resnet")
class TrainedModel(keras.Model):
    """A model that smooths labels in training, but not in `evaluate` or validation.

    `keras.Model` uses the same loss for both. Compiled with `CrossEntropy` or `BinaryCrossEntropy`,
    this model uses `loss.for_evaluation()` unless it trains; with any other loss, it behaves like
    `keras.Model`. Its only output is the logits.

    Attributes:
        single_unit: whether the model has a single output unit, whose logit is the second of the
            two logits; the first one is 0.
    """

    single_unit = False

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the loss of a batch, including regularization; see `keras.Model.compute_loss`."""
        if training or not isinstance(self.loss, _SmoothedLoss):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        loss = self.loss.for_evaluation()(y, y_pred, sample_weight)
        penalties = [keras.ops.sum(penalty) for penalty in self.losses]
        # Keras sums the losses of the replicas after dividing each by their number.
        return loss + sum(penalties) / _replicas() if penalties else loss


def _replicas() -> int:
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def balanced_weights(labels: np.ndarray, classes: int) -> list[float]:
    """Return class weights that balance the classes, with a mean of 1 over the images.

    Args:
        labels: integer labels of all training images, `(n,)`.
        classes: number of classes. The weight of a class without images is 0.

    Raises:
        ValueError: If there are no labels, or labels outside `[0, classes)`.
    """
    labels = np.asarray(labels)
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong) or not len(labels):
        raise ValueError(
            f"Expected labels from 0 to {classes - 1}, to balance the classes. Received: "
            + (f"{len(wrong)} other labels, such as {labels[wrong[0]]}" if len(wrong) else "none")
        )
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    present = counts > 0
    weights = np.zeros(classes)
    weights[present] = len(labels) / (present.sum() * counts[present])
    return [float(weight) for weight in weights]


def make_loss(
    config: LossConfig, class_weights: Sequence[float] | None = None, *, single_unit: bool = False
) -> keras.losses.Loss:
    """Return the loss of a recipe, for a `TrainedModel`.

    Args:
        config: the loss settings of the recipe.
        class_weights: one weight per class; None: all classes have the same weight.
        single_unit: whether the model has a single output unit; see `TrainedModel`. Cross-entropy
            of its two logits equals binary cross-entropy of the unit.
    """
    if single_unit or config.name == "cross-entropy":
        return CrossEntropy(config.label_smoothing, class_weights)
    return BinaryCrossEntropy(config.label_smoothing, config.target_threshold, class_weights)
