"""The images that a model takes, and the preparation of other images."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_resnet.images.protocol import DEFAULT_SIZE, EvalProtocol, eval_transform
from keras_resnet.models.info import ModelInfo

#: Weights of R, G and B in ITU-R 601, as in Pillow's mode L.
_GRAY = np.array([0.299, 0.587, 0.114], np.float32)


class ModelInput:
    """The images that a model takes.

    Attributes:
        shape: `(batch, height, width, channels)`; `None` where any size is accepted.
        protocol: resizing and cropping of image files, and of arrays of other sizes.
    """

    def __init__(
        self, shape: tuple[int | None, ...], info: ModelInfo, protocol: EvalProtocol | None = None
    ) -> None:
        """Initialize from the input shape of a model and the information that it carries.

        Args:
            shape: input shape of the model, see `shape` above.
            info: information of the model.
            protocol: protocol that overrides the one in `info`.

        Raises:
            ValueError: the model takes images of one size that is not square, and there is no
                protocol.
        """
        self.shape = shape
        self.protocol = protocol or _protocol(shape, info)
        self._transform = eval_transform(self.protocol)

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Return whether the model takes arrays of this `(height, width, channels)` unchanged."""
        wanted = self.shape[1:]
        return len(shape) == len(wanted) and all(
            want in (None, have) for want, have in zip(wanted, shape, strict=True)
        )

    def prepared(self, image: Any, index: int | None = None) -> np.ndarray:
        """Return an image as the model takes it, `(height, width, channels)`, in [0, 255].

        Args:
            image: a path, the bytes of an image file, or an array `(height, width, 3)`. Arrays of
                the model's fixed size are returned unchanged; other images are resized and cropped.
            index: index of the image in its batch, for messages.

        Raises:
            UnreadableImageError: the image cannot be read.
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
        """Convert images `(…, 3)`, uint8, RGB, to the model's number of channels.

        Raises:
            ValueError: the model takes neither 1 nor 3 channels.
        """
        channels = self.shape[3]
        if channels == 1:
            return (images.astype(np.float32) @ _GRAY).round().astype(np.uint8)[..., None]
        if channels != 3:
            raise ValueError(
                f"Expected arrays of shape (n, height, width, {channels}), as image files have at "
                "most three channels. Received: an image of another shape"
            )
        return images


def _protocol(shape: tuple[int | None, ...], info: ModelInfo) -> EvalProtocol:
    height, width = shape[1:3]
    if info.protocol is not None and {height, width} <= {None, info.protocol.size}:
        return info.protocol
    if height != width:
        raise ValueError(
            "Expected a model of square images, or of images of any size. "
            f"Received: input shape {shape}. Pass arrays of that size, and a `protocol`"
        )
    interpolation = info.protocol.interpolation if info.protocol else "bilinear"
    return EvalProtocol.of_size(height or DEFAULT_SIZE, interpolation)
