"""`Runner`: an artifact in its runtime, whatever that is, behind one method, `predict(images)`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_resnet.export.images import filled_up, image_array
from keras_resnet.export.outputs import classifies
from keras_resnet.images.protocol import warn_if_scaled
from keras_resnet.models.foreign import Hint, Layout
from keras_resnet.models.info import ModelInfo
from keras_resnet.models.outputs import class_probabilities
from keras_resnet.models.pixels import PIXEL_FORMATS, PixelFormat


class Runner(ABC):
    """An artifact loaded into its runtime.

    Any number of threads may call one runner, with batches of any sizes: each gets the answers to
    its own images. Keras models, SavedModels and ONNX files compute them at the same time, TFLite
    files one batch after the other, each on all cores.

    Attributes:
        format: what it is, such as `"ONNX"`.
        input_shape: `(batch, height, width, channels)`, `None` where any size is taken, whatever
            the artifact's own layout is.
        outputs: names of what it puts out: `("probabilities",)` or `("logits",)` for a classifier.
        ranks: how many dimensions each of them has.
        width: numbers along the last dimension of the first, where that is fixed.
        info: what the model knew about itself, such as its class names.
        pixels: how images are normalised before the artifact gets them; those of this package take
            them raw.
        notes: of an artifact of other origin, how it is run and why, in sentences.
        is_own: whether it is of this package, as its metadata tells.
        is_keras: whether it is a Keras model.
        layout: where the channels of an artifact of other origin are.
        hint: the pixel format that an artifact of other origin asks for.
        takes_integers: whether its input takes integers as they are.
        output_range: lowest and highest number that a quantized output can be.
        is_cut: whether it ends before the last dense layer of a classifier.
        is_flattened: whether outputs `(n, classes, 1, 1)` become `(n, classes)`.
    """

    format: str
    input_shape: tuple[int | None, ...]
    outputs: tuple[str, ...]
    ranks: tuple[int, ...]
    width: int | None = None
    info: ModelInfo = ModelInfo()
    pixels: PixelFormat = PIXEL_FORMATS["raw"]
    notes: tuple[str, ...] = ()
    is_own = True
    is_keras = False
    layout: Layout | None = None
    hint: Hint | None = None
    takes_integers = False
    output_range: tuple[float, float] | None = None
    is_cut = False
    is_flattened = False

    @property
    def is_classifier(self) -> bool:
        """Whether it puts out probabilities or logits `(n, classes)`."""
        return classifies(self.outputs, self.ranks)

    def check_classifier(self) -> None:
        """Raises a `ValueError` if this is no classifier."""
        if not self.is_classifier:
            outputs = [
                f"{name} of {rank} dimensions" if rank != 2 else name
                for name, rank in zip(self.outputs, self.ranks, strict=True)
            ]
            raise ValueError(
                f"Expected a classifier. Received: a model that puts out {', '.join(outputs)}"
            )

    def predict(self, images: Any, batch_size: int = 32) -> np.ndarray:
        """Class probabilities `(n, classes)`, float32.

        `images`: `(n, height, width, channels)`, uint8 or float, RGB in [0, 255]; at most
        `batch_size` of them are run at once.

        Raises:
            ValueError: the images have the wrong shape or range, or this is no classifier.
        """
        self.check_classifier()
        result = self.compute(images, batch_size)[self.outputs[0]]
        return class_probabilities(
            result, logits=self.outputs == ("logits",), pairs=self.info.task is None
        )

    def compute(self, images: Any, batch_size: int = 32) -> dict[str, np.ndarray]:
        """All outputs by name, float32, as the artifact gives them.

        Args:
            images: as for `predict`.
            batch_size: as for `predict`; artifacts of a fixed batch size get batches of that.

        Raises:
            ValueError: the images have the wrong shape or range.
        """
        warn_if_scaled(images, stacklevel=3)
        array = image_array(images, (None, *self.input_shape[1:]), "images")
        size = self.input_shape[0] or batch_size
        parts = []
        for start in range(0, len(array), size):
            batch = array[start : start + size]
            values = self._run_in_layout(self.pixels.apply(filled_up(batch, self.input_shape[0])))
            parts.append([value[: len(batch)] for value in values])
        return {
            name: np.concatenate(values).astype(np.float32)
            for name, values in zip(self.outputs, zip(*parts, strict=True), strict=True)
        }

    def _run_in_layout(self, batch: np.ndarray) -> list[np.ndarray]:
        """`run` of images and with feature maps `(n, height, width, channels)`."""
        channels_first = self.layout is not None and self.layout.channels_first
        if channels_first:
            batch = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
        values = [np.asarray(value) for value in self.run(batch)]
        if self.is_flattened:
            return [value.reshape(len(value), -1) for value in values]
        if channels_first:
            return [v.transpose(0, 2, 3, 1) if v.ndim == 4 else v for v in values]
        return values

    def answers(self, images: Any) -> dict[str, np.ndarray]:
        """Return the outputs to compare: of a classifier the probabilities, as `""`."""
        return {"": self.predict(images)} if self.is_classifier else self.compute(images)

    @abstractmethod
    def run(self, batch: np.ndarray) -> Sequence[Any]:
        """Return the artifact's own outputs for one batch, in the order of `outputs`.

        `batch`: images in the layout and the pixel format of the artifact, float32.
        """


def channels_last(shape: tuple[int | None, ...], layout: Layout | None) -> tuple[int | None, ...]:
    """The shape of an input as `(batch, height, width, channels)`."""
    if layout is None or not layout.channels_first:
        return shape
    return (shape[0], *shape[2:], shape[1])


def as_type(batch: np.ndarray, dtype: Any) -> np.ndarray:
    """Pixels in the type of an input; for integers, they are rounded."""
    return (np.rint(batch) if np.issubdtype(dtype, np.integer) else batch).astype(dtype, copy=False)
