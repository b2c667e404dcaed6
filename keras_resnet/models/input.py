"""The images that a model takes, and the preparation of other images."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_resnet.images.protocol import DEFAULT_SIZE, EvalProtocol, eval_transform
from keras_resnet.models.info import ModelInfo

#: ITU-R 601, as Pillow's mode L.
_GRAY = np.array([0.299, 0.587, 0.114], np.float32)


class ModelInput:
    """The images that a model takes.

    Attributes:
        shape: `(batch, height, width, channels)`, `None` where any size is taken.
        protocol: how image files, and arrays of other sizes, are resized and cropped.
    """

    def __init__(
        self, shape: tuple[int | None, ...], info: ModelInfo, protocol: EvalProtocol | None = None
    ) -> None:
        """Takes the model's input shape, what it knows about itself, and what overrules that.

        Raises:
            ValueError: the model takes images of one size that are no squares, and there is no
                protocol.
        """
        self.shape = shape
        self.protocol = protocol or _protocol(shape, info)
        self._transform = eval_transform(self.protocol)

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether the model takes an array `(height, width, channels)` as it is."""
        wanted = self.shape[1:]
        return len(shape) == len(wanted) and all(
            want in (None, have) for want, have in zip(wanted, shape, strict=True)
        )

    def prepared(self, image: Any, index: int | None = None) -> np.ndarray:
        """The image as the model takes it, `(height, width, channels)`, RGB in [0, 255].

        Args:
            image: a path, the bytes of an image file, or an array `(height, width, 3)`. An array of
                the model's one size stays as it is; all else is resized and cropped.
            index: its number among others, for messages.

        Raises:
            UnreadableImageError: it cannot be read.
            ValueError: the model takes more channels than image files have.
        """
        if None not in self.shape[1:] and isinstance(image, np.ndarray) and self.takes(image.shape):
            return image
        try:
            return self.with_channels(self._transform(image))
        except ValueError as error:
            if index is None:
                raise
            raise type(error)(f"{error}, at index {index}") from error

    def with_channels(self, images: np.ndarray) -> np.ndarray:
        """Images `(…, 3)`, uint8, RGB, with the model's number of channels.

        Raises:
            ValueError: the model takes other channels than colors or gray.
        """
        channels = self.shape[3]
        if channels == 1:
            return (images.astype(np.float32) @ _GRAY).round().astype(np.uint8)[..., None]
        if channels != 3:
            raise ValueError(
                f"Expected arrays of shape (n, height, width, {channels}): image files have three "
                "channels at most. Received: another image"
            )
        return images


def _protocol(shape: tuple[int | None, ...], info: ModelInfo) -> EvalProtocol:
    height, width = shape[1:3]
    if info.protocol is not None and {height, width} <= {None, info.protocol.size}:
        return info.protocol
    if height != width:
        raise ValueError(
            "Expected a model of square images, or of any size, to crop images for. "
            f"Received: input shape {shape}. Give arrays of that size, and a `protocol`"
        )
    interpolation = info.protocol.interpolation if info.protocol else "bilinear"
    return EvalProtocol.of_size(height or DEFAULT_SIZE, interpolation)
