"""Deletion and insertion curves, which show how faithful an explanation is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]

from keras_resnet.analysis.studies.explain import answers_of, explained_classes
from keras_resnet.support.checks import check_integer


@dataclass(frozen=True, eq=False)
class DeletionInsertion:
    """Probabilities of a class while pixels are deleted from an image, or inserted into it.

    Attributes:
        shares: share of the pixels that are changed, `(steps + 1,)`, from 0 to 1.
        deletion: probability after deleting so many, the most important first, `(steps + 1,)`.
        insertion: probability after inserting so many into a blurred image, likewise.
    """

    shares: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray

    @property
    def deletion_area(self) -> float:
        """Area below `deletion`, 0 to 1; the lower, the better the explanation."""
        return float(np.trapezoid(self.deletion, self.shares))

    @property
    def insertion_area(self) -> float:
        """Area below `insertion`, 0 to 1; the higher, the better the explanation."""
        return float(np.trapezoid(self.insertion, self.shares))


def deletion_insertion(
    model: keras.Model,
    image: Any,
    heatmap: Any,
    class_index: int | str | None = None,
    *,
    steps: int = 32,
) -> DeletionInsertion:
    """Check an explanation by deletion and insertion (Petsiuk et al. 2018, arXiv:1806.07421).

    Deleted pixels get the image's mean colour. Insertion begins with the image behind a Gaussian
    blur of a twentieth of its shorter side.

    Args:
        model: a classifier of images.
        image: `(height, width, channels)` as the model takes it, RGB in [0, 255].
        heatmap: `(height, width)`, such as one of `explain`: the higher, the more important. Of
            equal values, the pixels come row by row.
        class_index: index or name of the class; by default the image's top-1 class.
        steps: into how many equal parts the pixels are divided.

    Raises:
        ValueError: the map has another size than the image or a value that is not finite, there
            are fewer pixels than steps, or there is no such class.
    """
    pixels, heat = np.asarray(image, np.float32), np.asarray(heatmap)
    if pixels.ndim != 3 or heat.shape != pixels.shape[:2] or not np.isfinite(heat).all():
        raise ValueError(
            "Expected an image (height, width, channels) and a map (height, width) of finite "
            f"numbers. Received: shapes {pixels.shape} and {heat.shape}"
        )
    if check_integer("steps", steps) > heat.size:
        raise ValueError(f"Expected at most {heat.size} steps, one per pixel. Received: {steps}")
    (index,), _ = explained_classes(model, pixels[np.newaxis], class_index)
    rank = np.empty(heat.size, int)
    rank[np.argsort(-heat, axis=None, kind="stable")] = np.arange(heat.size)
    ends = np.linspace(0, heat.size, steps + 1).round()
    changed = rank.reshape(1, *heat.shape, 1) < ends.reshape(-1, 1, 1, 1)
    sigma = min(heat.shape) / 20
    blurred = gaussian_filter(pixels, (sigma, sigma, 0))
    mean = pixels.mean(axis=(0, 1))
    curves = [
        answers_of(model, np.where(changed, new, old).astype(np.float32))[:, index]
        for old, new in ((pixels, mean), (blurred, pixels))
    ]
    return DeletionInsertion(ends / heat.size, *curves)
