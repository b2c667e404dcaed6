"""Metrics of a classifier, computed from its probabilities and the correct labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats  # type: ignore[import-untyped]
import sklearn.metrics

#: Bins of the expected calibration error, of equal width, as in Guo et al. 2017 (arXiv:1706.04599).
CALIBRATION_BINS = 15

#: Images whose classes are sorted together.
_CHUNK = 4096


class CalibrationBin(NamedTuple):
    """The images whose top-1 probability is in `(low, high]`; the first bin includes 0.

    Attributes:
        low, high: bounds of the bin.
        images: number of images.
        confidence: mean top-1 probability; None without images.
        accuracy: top-1 accuracy; None without images.
    """

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


def ranks_of_right_class(
    probabilities: np.ndarray, labels: np.ndarray, targets: np.ndarray | None = None
) -> np.ndarray:
    """Return the rank of the most probable correct class of every image, `(n,)`, int, from 0.

    Classes with equal probabilities rank by index, as for `argmax`. If a probability of an image is
    NaN, its rank is the number of classes.

    Args:
        probabilities: `(n, classes)`.
        labels: correct class of every image, `(n,)`.
        targets: all correct classes, `(n, classes)`, bool, if images have several.
    """
    ranks = np.empty(len(labels), int)
    # In chunks: sorting the classes of 50,000 images and 1,000 classes at once takes 400 MB.
    for start in range(0, len(labels), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        order = np.argsort(-probabilities[chunk], axis=1, kind="stable")
        if targets is None:
            in_order = order == labels[chunk, np.newaxis]
        else:
            in_order = np.take_along_axis(targets[chunk], order, axis=1)
        ranks[chunk] = in_order.argmax(axis=1)
    ranks[np.isnan(probabilities).any(axis=1)] = probabilities.shape[1]
    return ranks


def cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean cross-entropy in nats; probabilities are clipped at 1e-7, as in Keras."""
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(of_label, 1e-7, 1.0)).mean())


def calibration_bins(
    confidences: np.ndarray, is_right: np.ndarray, bins: int = CALIBRATION_BINS
) -> list[CalibrationBin]:
    """Group images by their top-1 probability into bins of equal width.

    Args:
        confidences: top-1 probability of every image, `(n,)`.
        is_right: whether every image is classified correctly, `(n,)`, bool.
        bins: number of bins.
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    indices = np.clip(np.searchsorted(edges, confidences, side="left") - 1, 0, bins - 1)
    found = []
    for index in range(bins):
        inside = indices == index
        count = int(inside.sum())
        means = [float(v[inside].mean()) if count else None for v in (confidences, is_right)]
        found.append(CalibrationBin(float(edges[index]), float(edges[index + 1]), count, *means))
    return found


def expected_calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """Return the mean difference of confidence and accuracy, weighted by the images of each bin."""
    total = sum(each.images for each in bins)
    gaps = (each.images * abs(each.confidence - each.accuracy) for each in bins if each.images)  # type: ignore[operator]
    return float(sum(gaps) / total)


def per_class_metrics(
    labels: np.ndarray, predictions: np.ndarray, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the name, precision, recall, F1 and support of every class.

    Undefined metrics are None: the precision of a class that is never predicted, the recall of a
    class without images, and the F1 of a class with neither.
    """
    columns = sklearn.metrics.precision_recall_fscore_support(
        labels, predictions, labels=np.arange(len(class_names)), zero_division=np.nan
    )
    return [
        {
            "name": name,
            "precision": _number(precision),
            "recall": _number(recall),
            "f1": _number(f1),
            "support": int(support),
        }
        for name, precision, recall, f1, support in zip(class_names, *columns, strict=True)
    ]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> float:
    """Return the p-value of McNemar's exact test of equal accuracy of two classifiers.

    Args:
        first_right, second_right: whether each classifies each image correctly, `(n,)`, bool.
    """
    only_first = int((first_right & ~second_right).sum())
    only_second = int((~first_right & second_right).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(scipy.stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)
