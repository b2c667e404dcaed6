"""Pixel formats: channel order and range of the pixels that classifiers take.

Models of this package take RGB in [0, 255]. Models of other libraries expect normalized pixels, in
one of a few formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from keras_resnet.networks.config import IMAGENET_MEAN, IMAGENET_STD
from keras_resnet.support.checks import check_choice

if TYPE_CHECKING:
    import keras

#: Mean of each channel of the ImageNet training pixels, RGB, in the Caffe networks of 2015.
CAFFE_MEAN = (123.68, 116.779, 103.939)

#: Tolerance of the ends of a quantized input's range, relative to the range of a pixel format:
#: quantization moves both ends by up to one step.
_TOLERANCE = 0.02

#: Upper limit of the absolute value of normalized pixels. With ImageNet's mean and standard
#: deviation they reach 2.64; other data sets have larger values.
_NORMALIZED = 10.0

#: Lowest and highest pixel value.
_ENDS = (0.0, 255.0)


@dataclass(frozen=True)
class PixelFormat:
    """Normalization of pixels before they are passed to a model.

    Attributes:
        name: key in `PIXEL_FORMATS`.
        words: short description for messages.
        mean: subtracted from pixels in [0, 255]; one number per channel, RGB, or one for all.
        std: divisor of the difference; one number per channel, RGB, or one for all.
        bgr: whether the channels are in the order blue, green, red.
    """

    name: str
    words: str
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    bgr: bool = False

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Normalize images.

        Args:
            images: `(n, height, width, channels)`, uint8 or float, RGB in [0, 255].

        Returns:
            `(n, height, width, channels)`, float32.
        """
        pixels: np.ndarray = np.asarray(images, np.float32)
        if self.name == "raw":
            return pixels
        pixels = (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(pixels[..., ::-1]) if self.bgr else pixels

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest possible value of a normalized pixel."""
        pairs = list(zip(self.mean, self.std, strict=True))
        return min(-mean / std for mean, std in pairs), max((255 - m) / s for m, s in pairs)


#: Pixel formats by name, after the modes of `keras.applications.imagenet_utils.preprocess_input`
#: (tf, caffe, and torch, here called imagenet) and torchvision's `Normalize`.
PIXEL_FORMATS = {
    pixel_format.name: pixel_format
    for pixel_format in (
        PixelFormat("raw", "RGB in [0, 255]"),
        PixelFormat("unit", "RGB in [0, 1]", std=(255.0,)),
        PixelFormat("tf", "RGB in [-1, 1]", (127.5,), (127.5,)),
        PixelFormat(
            "imagenet",
            "RGB minus ImageNet's mean, divided by its standard deviation",
            IMAGENET_MEAN,
            IMAGENET_STD,
        ),
        PixelFormat(
            "caffe", "BGR in [0, 255] minus ImageNet's mean", CAFFE_MEAN, (1.0,) * 3, bgr=True
        ),
    )
}


def find_pixel_format(name: str, channels: int | None = None) -> PixelFormat:
    """Return the pixel format called `name`.

    Args:
        name: key of `PIXEL_FORMATS`.
        channels: number of channels of the images; `None` if it is unknown.

    Raises:
        ValueError: there is no such format, or it is for RGB images only.
    """
    check_choice("pixels", name, tuple(PIXEL_FORMATS))
    found = PIXEL_FORMATS[name]
    if channels not in (None, 3) and len(found.mean) == 3:
        raise ValueError(
            f"Expected a model of three channels with `pixels={name!r}`. Received: one of "
            f"{channels} channels. Choose raw, unit or tf"
        )
    return found


def format_of_range(low: float, high: float) -> PixelFormat | None:
    """Return the pixel format with values in `[low, high]`; `None` if there is none."""
    for known in PIXEL_FORMATS.values():
        lowest, highest = known.range
        allowed = _TOLERANCE * (highest - lowest)
        if abs(low - lowest) <= allowed and abs(high - highest) <= allowed:
            return known
    return None


def format_of_constants(mean: Sequence[float], std: Sequence[float]) -> PixelFormat:
    """Return the RGB pixel format with these constants; a new one called `"metadata"` if needed.

    Args:
        mean: mean in [0, 255], one number per channel or one for all.
        std: standard deviation above 0, one number per channel or one for all.
    """
    for known in PIXEL_FORMATS.values():
        pairs = ((mean, known.mean), (std, known.std))
        if not known.bgr and all(np.allclose(*pair, rtol=0.01, atol=0.01) for pair in pairs):
            return known
    numbers = [" ".join(f"{value:g}" for value in values) for values in (mean, std)]
    words = f"RGB in [0, 255] minus {numbers[0]}, divided by {numbers[1]}"
    return PixelFormat("metadata", words, tuple(mean), tuple(std))


def format_of_keras(model: keras.Model) -> tuple[PixelFormat, str] | None:
    """Return the pixel format that a Keras model takes and the reason; `None` if it is unknown.

    A `Rescaling` or `Normalization` layer before the first layer with weights that maps [0, 255] to
    small numbers shows that the model takes raw pixels.
    """
    import keras

    for layer in _leaves(model):
        if isinstance(layer, keras.layers.Rescaling):
            ends = (
                float(np.max(np.abs(x * np.asarray(layer.scale) + layer.offset))) for x in _ENDS
            )
        elif isinstance(layer, keras.layers.Normalization) and layer.mean is not None:
            mean, variance = (
                keras.ops.convert_to_numpy(value) for value in (layer.mean, layer.variance)
            )
            std = np.sqrt(np.maximum(variance, np.finfo(np.float32).tiny))
            ends = (float(np.max(np.abs((x - mean) / std))) for x in _ENDS)
        elif layer.weights:
            return None
        else:
            continue
        if max(ends) <= _NORMALIZED:
            return PIXEL_FORMATS[
                "raw"
            ], f"the model normalizes its pixels itself, in its layer {layer.name!r}"
    return None


def _leaves(model: keras.Model) -> Iterator[keras.Layer]:
    """Yield the layers of a model in their order, with those of nested models."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer
