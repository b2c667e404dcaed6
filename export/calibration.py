"""Calibration images for full-integer quantization."""

from __future__ import annotations

import numpy as np

#: With fewer images the activation ranges are guesses.
MINIMUM_IMAGES = 16


def check_calibration(images: np.ndarray) -> None:
    """Refuses calibration images that would give wrong ranges.

    Args:
        images: float32 `(n, height, width, channels)`, RGB in [0, 255], as at evaluation.

    Raises:
        ValueError: too few images, or pixels that were evidently divided by 255.
    """
    if len(images) < MINIMUM_IMAGES:
        raise ValueError(
            f"Expected at least {MINIMUM_IMAGES} calibration images. Received: {len(images)}"
        )
    if images.max() <= 1:
        raise ValueError(
            "Expected calibration images with pixels in [0, 255], which every artifact takes. "
            f"Received: pixels in [{images.min():g}, {images.max():g}], as if divided by 255"
        )
