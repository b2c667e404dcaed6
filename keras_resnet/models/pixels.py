"""Pixel formats: the ranges in which classifiers take their pixels.

Models of this package take RGB in [0, 255]. Those of other libraries expect their callers to
normalize, in one of a few ways.
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

#: Per-channel mean of the ImageNet training pixels, RGB, that the networks of 2015 subtract.
CAFFE_MEAN = (123.68, 116.779, 103.939)

#: How far the lowest and highest value of a quantized input may be from those of a pixel format, in
#: parts of the range: quantization moves both ends by up to a step.
_TOLERANCE = 0.02

#: Largest value of an image that is normalized: 2.64 with ImageNet's mean and deviation, more with
#: those of other data sets.
_NORMALIZED = 10.0

#: Darkest and brightest pixel.
_ENDS = (0.0, 255.0)


@dataclass(frozen=True)
class PixelFormat:
    """Pixel formats: the normalization of pixels before a model gets them.

    Attributes:
        name: the key in `PIXEL_FORMATS`.
        words: what it is, for messages.
        mean: per channel, RGB, or one for all: subtracted from pixels in [0, 255].
        std: likewise: what the difference is divided by.
        bgr: whether the channels are in the order blue, green, red.
    """

    name: str
    words: str
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    bgr: bool = False

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Normalizes images.

        Args:
            images: `(n, height, width, channels)`, RGB in [0, 255].

        Returns:
            The same shape, float32.
        """
        pixels: np.ndarray = np.asarray(images, np.float32)
        if self.name == "raw":
            return pixels
        pixels = (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(pixels[..., ::-1]) if self.bgr else pixels

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest value of any pixel."""
        pairs = list(zip(self.mean, self.std, strict=True))
        return min(-mean / std for mean, std in pairs), max((255 - m) / s for m, s in pairs)


#: By name. Sources: `keras.applications.imagenet_utils.preprocess_input`, whose modes are tf, torch
#: (here imagenet) and caffe; torchvision's `Normalize`.
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
    """The pixel format of that name.

    Args:
        name: a key of `PIXEL_FORMATS`.
        channels: those of the images, if they are known.

    Raises:
        ValueError: there is none, or it is one of colors, and the images have no three channels.
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
    """The pixel format whose values span `[low, high]`; None if none does."""
    for known in PIXEL_FORMATS.values():
        lowest, highest = known.range
        allowed = _TOLERANCE * (highest - lowest)
        if abs(low - lowest) <= allowed and abs(high - highest) <= allowed:
            return known
    return None


def format_of_constants(mean: Sequence[float], std: Sequence[float]) -> PixelFormat:
    """The pixel format with these constants, for RGB in [0, 255]; unless known, `"metadata"`.

    Args:
        mean: one per channel, or one for all.
        std: likewise, above 0.
    """
    for known in PIXEL_FORMATS.values():
        pairs = ((mean, known.mean), (std, known.std))
        if not known.bgr and all(np.allclose(*pair, rtol=0.01, atol=0.01) for pair in pairs):
            return known
    numbers = [" ".join(f"{value:g}" for value in values) for values in (mean, std)]
    words = f"RGB in [0, 255] minus {numbers[0]}, divided by {numbers[1]}"
    return PixelFormat("metadata", words, tuple(mean), tuple(std))


def format_of_keras(model: keras.Model) -> tuple[PixelFormat, str] | None:
    """The pixel format that a Keras model takes, and why, as far as its first layers tell.

    A `Rescaling` or `Normalization` layer before the first convolution that brings [0, 255] to
    small numbers says that the model normalizes the pixels itself.
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
    """The layers of a model in their order, with those of the models inside it."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer
