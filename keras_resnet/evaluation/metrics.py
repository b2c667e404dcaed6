"""Figures of a classifier, computed from its probabilities and the right labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats  # type: ignore[import-untyped]
import sklearn.metrics

#: Bins of the expected calibration error, of equal width, as in Guo et al. 2017 (arXiv:1706.04599).
CALIBRATION_BINS = 15

#: Images that are sorted at once.
_PIECE = 4096


class CalibrationBin(NamedTuple):
    """Images whose top-1 probability is in `(low, high]`; the first bin has 0 as well.

    Attributes:
        low, high: the bounds.
        images: how many there are.
        confidence: mean of their top-1 probabilities; None without images.
        accuracy: share of them that is classified rightly; None without images.
    """

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


def ranks_of_right_class(
    probabilities: np.ndarray, labels: np.ndarray, targets: np.ndarray | None = None
) -> np.ndarray:
    """Rank of the best-placed right class of every image: `(n,)`, int; 0 is the top-1 class.

    Of equal probabilities, the lower class index comes first, as `argmax` has it. An image with NaN
    among its probabilities has the last rank, the number of classes.

    Args:
        probabilities: `(n, classes)`.
        labels: the right class of every image, `(n,)`.
        targets: `(n, classes)`, bool: all right classes, where images have several.
    """
    ranks = np.empty(len(labels), int)
    # In pieces: the orders of 50,000 images and 1,000 classes are 400 MB.
    for start in range(0, len(labels), _PIECE):
        piece = slice(start, start + _PIECE)
        order = np.argsort(-probabilities[piece], axis=1, kind="stable")
        if targets is None:
            in_order = order == labels[piece, np.newaxis]
        else:
            in_order = np.take_along_axis(targets[piece], order, axis=1)
        ranks[piece] = in_order.argmax(axis=1)
    ranks[np.isnan(probabilities).any(axis=1)] = probabilities.shape[1]
    return ranks


def cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative logarithm of the right class' probability; 1e-7 at least, as Keras clips."""
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(own, 1e-7, 1.0)).mean())


def calibration_bins(
    confidences: np.ndarray, is_right: np.ndarray, bins: int = CALIBRATION_BINS
) -> list[CalibrationBin]:
    """Images by their top-1 probability, in bins of equal width."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    places = np.clip(np.searchsorted(edges, confidences, side="left") - 1, 0, bins - 1)
    found = []
    for index in range(bins):
        inside = places == index
        count = int(inside.sum())
        means = [float(v[inside].mean()) if count else None for v in (confidences, is_right)]
        found.append(CalibrationBin(float(edges[index]), float(edges[index + 1]), count, *means))
    return found


def expected_calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """Mean distance of confidence and accuracy, weighted by the images of each bin."""
    total = sum(row.images for row in bins)
    gaps = (row.images * abs(row.confidence - row.accuracy) for row in bins if row.images)  # type: ignore[operator]
    return float(sum(gaps) / total)


def per_class_figures(
    labels: np.ndarray, predictions: np.ndarray, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Precision, recall, F1 and support of every class, in the order of the classes.

    A figure that would divide by zero is None: precision of a class that is never predicted, recall
    of one without images, F1 of one with neither.
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
    """The p-value of McNemar's exact test: are two classifiers equally often right?

    Args:
        first_right, second_right: whether each is right, `(n,)`, bool, of the same images.
    """
    only_first = int((first_right & ~second_right).sum())
    only_second = int((~first_right & second_right).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(scipy.stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)
