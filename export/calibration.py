"""Calibration images for full-integer quantization."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

#: With fewer images the activation ranges are guesses.
MINIMUM_IMAGES = 16


def calibration_images(images: Iterable[Any] | np.ndarray, input_shape: tuple[int | None, ...]) -> np.ndarray:
    """Checks calibration images and returns them as float32 `(n, height, width, channels)`.

    Args:
        images: RGB images `(height, width, channels)` in [0, 255], evaluation-transformed, not augmented.
        input_shape: the model's, `(batch, height, width, channels)`.

    Raises:
        ValueError: too few images, the wrong shape, or pixels that are evidently not in [0, 255].
    """
    array = image_array(images, input_shape, "calibration images")
    if len(array) < MINIMUM_IMAGES:
        raise ValueError(f"Expected at least {MINIMUM_IMAGES} calibration images. Received: {len(array)}")
    if array.max() <= 1:
        raise ValueError(
            "Expected calibration pixels in [0, 255]; the network normalises them itself. Received: pixels in "
            f"[{array.min():g}, {array.max():g}], as if divided by 255 already"
        )
    return array


def image_array(images: Iterable[Any] | np.ndarray, input_shape: tuple[int | None, ...], what: str) -> np.ndarray:
    """Stacks images into float32 `(n, height, width, channels)` and checks that the model takes them."""
    array = np.asarray(images if isinstance(images, np.ndarray) else list(images), dtype=np.float32)
    matches = array.ndim == 4 and all(
        want in (None, have) for want, have in zip(input_shape[1:], array.shape[1:], strict=True)
    )
    if not matches or not len(array):
        raise ValueError(f"Expected {what} of shape (n, {_text(input_shape[1:])}). Received: {array.shape}")
    if not np.isfinite(array).all() or array.min() < 0 or array.max() > 255:
        raise ValueError(
            f"Expected {what} with pixels in [0, 255]. Received: pixels in [{array.min():g}, {array.max():g}]"
        )
    return array


def _text(shape: tuple[int | None, ...]) -> str:
    return ", ".join("any" if side is None else str(side) for side in shape)
