"""Comparison of an artifact's outputs with those of its Keras model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Limits:
    """Limits for the differences between an artifact and its Keras model.

    Examples:
        >>> verify("model-int8.tflite", "model.keras", limits=Limits(min_agreement=0.95))

    Attributes:
        max_error: largest allowed difference of a probability, in [0, 1]; for feature maps,
            relative to the largest absolute value of the map. `None`: no limit.
        min_agreement: smallest allowed share of images with the same top-1 class, in [0, 1].
        max_accuracy_drop: largest allowed loss of accuracy, in [0, 1]; 0.01 is one percentage
            point. `None`: no limit.
        min_cosine: smallest allowed cosine between both outputs for an image, averaged over the
            images.
    """

    max_error: float | None = None
    min_agreement: float = 0.0
    max_accuracy_drop: float | None = None
    min_cosine: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """Differences between the outputs of an artifact and those of its Keras model.

    Attributes:
        images: number of images that were compared.
        max_error: largest difference of a probability; for feature maps, relative to the largest
            absolute value of the map.
        mean_error: mean difference, in the same unit as `max_error`.
        cosine: cosine between both outputs for an image, averaged over the images; 1 if they are
            parallel.
        agreement: share of images with the same top-1 class, in [0, 1]; `None` for feature maps.
        top5_agreement: share of Keras' five most probable classes that are among the artifact's
            five, averaged over the images; `None` with five classes or fewer.
        accuracy: share of images whose top-1 class is the label; `None` without labels.
        keras_accuracy: accuracy of the Keras model on the same images.
    """

    images: int
    max_error: float
    mean_error: float
    cosine: float
    agreement: float | None = None
    top5_agreement: float | None = None
    accuracy: float | None = None
    keras_accuracy: float | None = None

    @property
    def not_measured(self) -> dict[str, str]:
        """Reason why agreement or accuracy could not be measured, by the name of the figure."""
        if self.agreement is None:
            return dict.fromkeys(("agreement", "accuracy"), "the model is not a classifier")
        return {} if self.accuracy is not None else {"accuracy": "there are no labels"}


def compare(
    expected: np.ndarray, received: np.ndarray, labels: np.ndarray | None = None
) -> Comparison:
    """Compare the probabilities of a Keras model with those of an artifact.

    Args:
        expected: probabilities from Keras, float `(n, classes)`.
        received: probabilities from the artifact, of the same shape.
        labels: true classes, integer `(n,)`, to measure accuracy.

    Raises:
        ValueError: the shapes differ.
    """
    found = _difference(expected, received)
    # A single column is the probability of one label.
    expected_class, received_class = (
        array.argmax(-1) if array.shape[1] > 1 else array[:, 0] > 0.5
        for array in (expected, received)
    )
    return Comparison(
        len(expected),
        *found,
        agreement=float((expected_class == received_class).mean()),
        top5_agreement=_common_top5(expected, received) if expected.shape[1] > 5 else None,
        accuracy=None if labels is None else float((received_class == labels).mean()),
        keras_accuracy=None if labels is None else float((expected_class == labels).mean()),
    )


def compare_features(
    expected: Mapping[str, np.ndarray], received: Mapping[str, np.ndarray]
) -> Comparison:
    """Compare feature maps, float `(n, …)`, by name; return the figures of the worst one.

    Raises:
        ValueError: names or shapes differ.
    """
    if expected.keys() != received.keys():
        raise ValueError(f"Expected outputs {', '.join(expected)}. Received: {', '.join(received)}")
    found = []
    for name, wanted in expected.items():
        largest, mean, cosine = _difference(wanted, received[name])
        scale = max(float(np.abs(wanted).max()), float(np.finfo(np.float32).tiny))
        found.append((largest / scale, mean / scale, -cosine))
    # Python's `max` may skip NaN.
    largest, mean, cosine = np.max(found, axis=0).tolist()
    return Comparison(len(next(iter(expected.values()))), largest, mean, -cosine)


def compare_outputs(
    expected: Mapping[str, np.ndarray],
    received: Mapping[str, np.ndarray],
    labels: np.ndarray | None = None,
) -> Comparison:
    """Compare the results of `Runner.answers` of two runners; `labels` are as in `compare`."""
    if expected.keys() == received.keys() == {""}:
        return compare(expected[""], received[""], labels)
    return compare_features(expected, received)


def _difference(expected: np.ndarray, received: np.ndarray) -> tuple[float, float, float]:
    """Return the largest error, the mean error and the cosine."""
    if expected.shape != received.shape:
        raise ValueError(
            f"Expected an output of shape {expected.shape}. Received: {received.shape}"
        )
    errors = np.abs(expected.astype(np.float64) - received)
    return float(errors.max()), float(errors.mean()), _cosine(expected, received)


def _cosine(expected: np.ndarray, received: np.ndarray) -> float:
    a, b = (array.reshape(len(array), -1).astype(np.float64) for array in (expected, received))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    # The cosine with a vector of zeros is undefined: 1 if both are zeros, 0 if only one is.
    same = np.all(a == b, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = np.where(lengths > 0, (a * b).sum(1) / lengths, 0.0)
    return float(np.where(same, 1.0, cosines).mean())


def _common_top5(expected: np.ndarray, received: np.ndarray) -> float:
    tops = [np.argsort(-array, axis=-1, kind="stable")[:, :5] for array in (expected, received)]
    common = [len(np.intersect1d(*pair)) for pair in zip(*tops, strict=True)]
    return float(np.mean(common)) / 5


def measured(limits: Limits, comparison: Comparison) -> Limits:
    """Return the limits without those for figures that could not be measured."""
    missing = comparison.not_measured
    return dataclasses.replace(
        limits,
        min_agreement=0.0 if "agreement" in missing else limits.min_agreement,
        max_accuracy_drop=None if "accuracy" in missing else limits.max_accuracy_drop,
    )


def disagreements(comparison: Comparison, limits: Limits) -> list[str]:
    """Return one phrase for each limit that is exceeded or could not be checked."""
    limited = {
        "agreement": limits.min_agreement > 0,
        "accuracy": limits.max_accuracy_drop is not None,
    }
    missing = comparison.not_measured
    found = [f"{what} not measured: {why}" for what, why in missing.items() if limited[what]]
    quantity = "output" if comparison.agreement is None else "probability"
    if not math.isfinite(comparison.max_error):
        # `argmax` finds a class even among NaN, so that comparing classes alone would pass.
        found.append("its output is not finite")
    if limits.max_error is not None and not comparison.max_error <= limits.max_error:
        found.append(
            f"largest {quantity} error {comparison.max_error:.2g}, allowed {limits.max_error:g}"
        )
    if not comparison.cosine >= limits.min_cosine:
        found.append(f"cosine {comparison.cosine:.4f}, required {limits.min_cosine:g}")
    if comparison.agreement is not None and not comparison.agreement >= limits.min_agreement:
        found.append(
            f"top-1 agreement {comparison.agreement:.2%}, required {limits.min_agreement:.0%}"
        )
    if limits.max_accuracy_drop is not None and comparison.accuracy is not None:
        assert comparison.keras_accuracy is not None
        drop = comparison.keras_accuracy - comparison.accuracy
        # The tolerance absorbs the rounding error of the subtraction.
        if drop > limits.max_accuracy_drop + 1e-9:
            found.append(
                f"accuracy {comparison.accuracy:.2%} against {comparison.keras_accuracy:.2%}, a "
                f"drop of at most {limits.max_accuracy_drop * 100:g} points is allowed"
            )
    return found
