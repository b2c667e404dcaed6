"""Whether an artifact says the same as the Keras model it was made from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Limits:
    """How far an artifact may be from Keras.

    Attributes:
        max_error: largest difference of any probability; `None` for any.
        min_agreement: smallest share of images with the same top-1 class.
        max_accuracy_drop: how much accuracy may be lost, if labels are given.
    """

    max_error: float | None = None
    min_agreement: float = 0.0
    max_accuracy_drop: float | None = None


@dataclass(frozen=True)
class Comparison:
    """An artifact's predictions held against those of Keras.

    Attributes:
        images: how many images were compared.
        max_error: largest difference of any probability.
        mean_error: mean difference of the probabilities.
        agreement: share of images with the same top-1 class, 0 to 1.
        accuracy: share of images whose top-1 class is the label; `None` without labels.
        keras_accuracy: the same of the Keras model.
    """

    images: int
    max_error: float
    mean_error: float
    agreement: float
    accuracy: float | None
    keras_accuracy: float | None


def compare(
    expected: np.ndarray, received: np.ndarray, labels: np.ndarray | None = None
) -> Comparison:
    """Compares the probabilities `(n, classes)` of Keras and of an artifact.

    Args:
        expected: those of Keras.
        received: those of the artifact.
        labels: `(n,)`, the true classes, to measure accuracy.

    Raises:
        ValueError: the shapes differ.
    """
    if expected.shape != received.shape:
        raise ValueError(
            f"Expected probabilities of shape {expected.shape}. Received: {received.shape}"
        )
    errors = np.abs(expected.astype(np.float64) - received)
    expected_class, received_class = expected.argmax(-1), received.argmax(-1)
    return Comparison(
        images=len(expected),
        max_error=float(errors.max()),
        mean_error=float(errors.mean()),
        agreement=float((expected_class == received_class).mean()),
        accuracy=None if labels is None else float((received_class == labels).mean()),
        keras_accuracy=None if labels is None else float((expected_class == labels).mean()),
    )


def disagreements(comparison: Comparison, limits: Limits) -> list[str]:
    """What is outside the limits, in words; empty if the artifact agrees."""
    found = []
    if not math.isfinite(comparison.max_error):
        # Otherwise NaN would pass where only classes are compared: argmax finds one in it.
        found.append("its probabilities are not finite")
    if limits.max_error is not None and not comparison.max_error <= limits.max_error:
        found.append(
            f"largest probability error {comparison.max_error:.2g}, allowed {limits.max_error:g}"
        )
    if not comparison.agreement >= limits.min_agreement:
        found.append(
            f"top-1 agreement {comparison.agreement:.2%}, required {limits.min_agreement:.0%}"
        )
    if limits.max_accuracy_drop is not None and comparison.accuracy is not None:
        assert comparison.keras_accuracy is not None
        drop = comparison.keras_accuracy - comparison.accuracy
        # Shares of whole images: the tolerance only absorbs the rounding of the subtraction.
        if drop > limits.max_accuracy_drop + 1e-9:
            found.append(
                f"accuracy {comparison.accuracy:.2%} against {comparison.keras_accuracy:.2%}, a "
                f"drop of at most {limits.max_accuracy_drop * 100:g} points is allowed"
            )
    return found
