"""`Runner`, the interface of artifacts that are loaded into their runtimes."""

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
    """Artifact that is loaded into its runtime; `load_runner` returns one.

    Several threads may call the same runner, with batches of any size. Keras models, SavedModels
    and ONNX files then compute at the same time; a TFLite file computes one batch after the other,
    each on all cores.

    Examples:
        >>> runner = load_runner("exported/model-int8.tflite")
        >>> runner.predict(images).shape  # (n, height, width, 3), RGB in [0, 255]
        (8, 1000)

    Attributes:
        format: format of the artifact, such as `"ONNX"`.
        input_shape: `(batch, height, width, channels)` in any layout of the artifact, with `None`
            for sides of any length.
        outputs: names of the outputs; `("probabilities",)` or `("logits",)` for a classifier.
        ranks: number of dimensions of each output.
        width: length of the first output's last dimension; `None` if it varies.
        info: information about the model from the artifact's metadata, such as class names.
        pixels: normalization of images before the artifact gets them; `raw` for artifacts of this
            package.
        notes: sentences on how an artifact of another package is run, and why.
        is_own: whether the metadata says that this package wrote the artifact.
        is_keras: whether the artifact is a Keras model.
        layout: layout of the input of an artifact of another package.
        hint: pixel format that an artifact of another package asks for.
        takes_integers: whether the input takes integers without a scale.
        output_range: smallest and largest number that a quantized output can hold.
        is_cut: whether the output is the input of the classifier's last dense layer.
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
        """Return whether the output is probabilities or logits `(n, classes)`."""
        return classifies(self.outputs, self.ranks)

    def check_classifier(self) -> None:
        """Raise ValueError if the artifact is not a classifier."""
        if not self.is_classifier:
            outputs = [
                f"{name} of {rank} dimensions" if rank != 2 else name
                for name, rank in zip(self.outputs, self.ranks, strict=True)
            ]
            raise ValueError(
                f"Expected a classifier. Received: a model with the outputs {', '.join(outputs)}"
            )

    def predict(self, images: Any, batch_size: int = 32) -> np.ndarray:
        """Return class probabilities, float32 `(n, classes)`.

        Args:
            images: `(n, height, width, channels)`, uint8 or float, RGB in [0, 255].
            batch_size: largest number of images in a batch. An artifact with a fixed batch size
                gets batches of that size.

        Raises:
            ValueError: the images have the wrong shape or range, or the artifact is not a
                classifier.
        """
        self.check_classifier()
        result = self.compute(images, batch_size)[self.outputs[0]]
        return class_probabilities(
            result, logits=self.outputs == ("logits",), pairs=self.info.task is None
        )

    def compute(self, images: Any, batch_size: int = 32) -> dict[str, np.ndarray]:
        """Return all outputs by name, float32, such as feature maps `(n, height, width, channels)`.

        Args:
            images: `(n, height, width, channels)`, uint8 or float, RGB in [0, 255].
            batch_size: largest number of images in a batch. An artifact with a fixed batch size
                gets batches of that size.

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
        """Call `run` with images in the artifact's layout; return feature maps as NHWC."""
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
        """Return the outputs to compare: a classifier's probabilities as `""`, or all by name."""
        return {"": self.predict(images)} if self.is_classifier else self.compute(images)

    @abstractmethod
    def run(self, batch: np.ndarray) -> Sequence[Any]:
        """Return the outputs of the artifact for one batch, in the order of `outputs`.

        `batch` holds float32 images in the layout and pixel format of the artifact.
        """


def channels_last(shape: tuple[int | None, ...], layout: Layout | None) -> tuple[int | None, ...]:
    """Return the shape of an input as `(batch, height, width, channels)`."""
    if layout is None or not layout.channels_first:
        return shape
    return (shape[0], *shape[2:], shape[1])


def as_type(batch: np.ndarray, dtype: Any) -> np.ndarray:
    """Return pixels in the type of an input, rounded if it is an integer type."""
    return (np.rint(batch) if np.issubdtype(dtype, np.integer) else batch).astype(dtype, copy=False)
