"""Whether an artifact says the same as the Keras model it was made from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Limits:
    """Limits of the differences between an artifact and Keras.

    Attributes:
        max_error: largest difference of any probability; of feature maps, in parts of the largest
            value of the map. `None` for any.
        min_agreement: smallest share of images with the same top-1 class.
        max_accuracy_drop: how much accuracy may be lost.
        min_cosine: smallest mean cosine of an image's outputs.
    """

    max_error: float | None = None
    min_agreement: float = 0.0
    max_accuracy_drop: float | None = None
    min_cosine: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """Comparison of an artifact's outputs with those of Keras.

    Attributes:
        images: how many images were compared.
        max_error: largest difference of any probability; of feature maps, in parts of the largest
            value of the map.
        mean_error: mean difference, likewise.
        cosine: cosine between both outputs of an image, in the mean over the images; 1: parallel.
        agreement: share of images with the same top-1 class, 0 to 1; `None` for feature maps.
        top5_agreement: how many of Keras' five likeliest classes are among the artifact's five, in
            the mean, 0 to 1; `None` with five classes or fewer.
        accuracy: share of images whose top-1 class is the label; `None` without labels.
        keras_accuracy: the same of the Keras model.
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
        """The figures among agreement and accuracy that could not be measured, and why."""
        if self.agreement is None:
            return dict.fromkeys(("agreement", "accuracy"), "the model puts out no classes")
        return {} if self.accuracy is not None else {"accuracy": "there are no labels"}


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
    found = _difference(expected, received)
    # A single column is that of one label.
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
    """Compares feature maps by name, each `(n, …)`; the worst of them counts.

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
    # Not `max`, which may pass NaN over.
    largest, mean, cosine = np.max(found, axis=0).tolist()
    return Comparison(len(next(iter(expected.values()))), largest, mean, -cosine)


def compare_outputs(
    expected: Mapping[str, np.ndarray],
    received: Mapping[str, np.ndarray],
    labels: np.ndarray | None = None,
) -> Comparison:
    """Compares what `Runner.answers` gives of two runners; `labels` as for `compare`."""
    if expected.keys() == received.keys() == {""}:
        return compare(expected[""], received[""], labels)
    return compare_features(expected, received)


def _difference(expected: np.ndarray, received: np.ndarray) -> tuple[float, float, float]:
    """Largest and mean error, and the cosine."""
    if expected.shape != received.shape:
        raise ValueError(
            f"Expected an output of shape {expected.shape}. Received: {received.shape}"
        )
    errors = np.abs(expected.astype(np.float64) - received)
    return float(errors.max()), float(errors.mean()), _cosine(expected, received)


def _cosine(expected: np.ndarray, received: np.ndarray) -> float:
    a, b = (array.reshape(len(array), -1).astype(np.float64) for array in (expected, received))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    # Two outputs of nothing but zeros are the same; one such is as far off as can be.
    same = np.all(a == b, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = np.where(lengths > 0, (a * b).sum(1) / lengths, 0.0)
    return float(np.where(same, 1.0, cosines).mean())


def _common_top5(expected: np.ndarray, received: np.ndarray) -> float:
    tops = [np.argsort(-array, axis=-1, kind="stable")[:, :5] for array in (expected, received)]
    common = [len(np.intersect1d(*pair)) for pair in zip(*tops, strict=True)]
    return float(np.mean(common)) / 5


def measured(limits: Limits, comparison: Comparison) -> Limits:
    """The limits without those of what could not be measured."""
    missing = comparison.not_measured
    return dataclasses.replace(
        limits,
        min_agreement=0.0 if "agreement" in missing else limits.min_agreement,
        max_accuracy_drop=None if "accuracy" in missing else limits.max_accuracy_drop,
    )


def disagreements(comparison: Comparison, limits: Limits) -> list[str]:
    """Sentences about what is outside the limits or could not be measured; empty if it agrees."""
    asked = {
        "agreement": limits.min_agreement > 0,
        "accuracy": limits.max_accuracy_drop is not None,
    }
    missing = comparison.not_measured
    found = [f"{what} not measured: {why}" for what, why in missing.items() if asked[what]]
    of_what = "output" if comparison.agreement is None else "probability"
    if not math.isfinite(comparison.max_error):
        # Otherwise NaN would pass where only classes are compared: argmax finds one in it.
        found.append("what it puts out is not finite")
    if limits.max_error is not None and not comparison.max_error <= limits.max_error:
        found.append(
            f"largest {of_what} error {comparison.max_error:.2g}, allowed {limits.max_error:g}"
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
        # Shares of whole images: the tolerance only absorbs the rounding of the subtraction.
        if drop > limits.max_accuracy_drop + 1e-9:
            found.append(
                f"accuracy {comparison.accuracy:.2%} against {comparison.keras_accuracy:.2%}, a "
                f"drop of at most {limits.max_accuracy_drop * 100:g} points is allowed"
            )
    return found
