"""Deletion and insertion curves, which measure the faithfulness of an explanation."""

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
        deletion: probability after deleting this share, the most important pixels first,
            `(steps + 1,)`.
        insertion: probability after inserting this share into a blurred image, the most important
            pixels first, `(steps + 1,)`.
    """

    shares: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray

    @property
    def deletion_area(self) -> float:
        """Area under the curve `deletion`, 0 to 1; lower for better explanations."""
        return float(np.trapezoid(self.deletion, self.shares))

    @property
    def insertion_area(self) -> float:
        """Area under the curve `insertion`, 0 to 1; higher for better explanations."""
        return float(np.trapezoid(self.insertion, self.shares))


def deletion_insertion(
    model: keras.Model,
    image: Any,
    heatmap: Any,
    class_index: int | str | None = None,
    *,
    steps: int = 32,
) -> DeletionInsertion:
    """Measure an explanation by deletion and insertion (Petsiuk et al. 2018, arXiv:1806.07421).

    Deleted pixels get the mean color of the image. Insertion starts from the image after a Gaussian
    blur with a standard deviation of a twentieth of its short side.

    Args:
        model: a classifier of images.
        image: `(height, width, channels)` as the model takes it, RGB in [0, 255].
        heatmap: `(height, width)`, such as a result of `explain`; higher values are more important.
            Pixels with equal values are taken row by row.
        class_index: index or name of the class; by default the top-1 class of the image.
        steps: number of equal steps in which the pixels are changed.

    Raises:
        ValueError: the map and the image have different sizes, the map has a value that is not
            finite, there are fewer pixels than steps, or there is no such class.

    Examples:

    ```python
    heatmap = explain(model, image[np.newaxis])[0]
    deletion_insertion(model, image, heatmap).insertion_area
    ```
    """
    pixels, heat = np.asarray(image, np.float32), np.asarray(heatmap)
    if pixels.ndim != 3 or heat.shape != pixels.shape[:2] or not np.isfinite(heat).all():
        raise ValueError(
            "Expected an image (height, width, channels) and a map (height, width) of finite "
            f"values. Received: shapes {pixels.shape} and {heat.shape}"
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
