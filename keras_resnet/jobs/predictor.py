"""From image files to class probabilities, with a model or any artifact of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnet.images.decode import ImageSource
from keras_resnet.images.labels import decode_predictions
from keras_resnet.images.protocol import EvalProtocol, warn_if_scaled
from keras_resnet.models.info import ModelInfo, get_info
from keras_resnet.models.input import ModelInput
from keras_resnet.support.checks import check_integer


class Predictor:
    """Classifies images with a Keras model or an artifact, through one compiled function.

    Attributes:
        protocol: how image files are resized and cropped.
        class_names: one per class; `None` if nobody named them.
        input_shape: `(batch, height, width, channels)`, `None` where any size is taken.
        traces: how often the function of a Keras model was compiled.
    """

    def __init__(
        self,
        model: keras.Model | str | os.PathLike[str],
        *,
        protocol: EvalProtocol | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        """Loads an artifact, or takes a model as it is.

        Args:
            model: a classifier that takes RGB in [0, 255], or the path of a `.keras`, `.tflite` or
                `.onnx` file or of a SavedModel directory.
            protocol: how image files are resized and cropped; by default what the model knows
                about itself, else for its input size, of which the crop takes 87.5 %.
            class_names: one per class, in place of those that the model knows.

        Raises:
            ValueError: the artifact cannot be read, is no classifier of images, or has another
                number of classes than there are names.
        """
        self._runner: Any
        if isinstance(model, keras.Model) and keras.backend.backend() != "tensorflow":
            self._runner, info = _OtherBackend(model), get_info(model)
        else:
            # Artifacts and the compiled function are TensorFlow's.
            from keras_resnet.export.runtime import KerasRunner, load_runner

            keras_model = isinstance(model, keras.Model)
            self._runner = KerasRunner(model) if keras_model else load_runner(Path(model))
            info = self._runner.info
        self.input_shape: tuple[int | None, ...] = self._runner.input_shape
        self._input = ModelInput(self.input_shape, info, protocol)
        self.protocol = self._input.protocol
        if isinstance(class_names, str):
            raise ValueError(f"Expected a list of `class_names`. Received: {class_names!r}")
        self.class_names = tuple(class_names) if class_names is not None else info.class_names
        self._ids = None if class_names is not None else info.class_ids
        ModelInfo(self.class_names, self._ids).check_names(self._runner.width)

    @property
    def traces(self) -> int:
        return int(getattr(self._runner, "traces", 0))

    def predict(
        self, images: ImageSource | Sequence[ImageSource], batch_size: int = 32
    ) -> np.ndarray:
        """Class probabilities `(n, classes)`, float32.

        Args:
            images: one image or several: paths, bytes of image files, or arrays
                `(height, width, 3)`, uint8 or float, RGB in [0, 255]. Files are resized and cropped
                by `protocol`; so are arrays, unless they have the model's own size, or are one
                array `(n, height, width, channels)` that the model takes as it is.
            batch_size: how many are prepared and run at once, at most.

        Raises:
            ValueError: an image cannot be read, or has another range; the message says which.
        """
        check_integer("batch_size", batch_size)
        single = isinstance(images, (str, bytes, os.PathLike))
        if single or (isinstance(images, np.ndarray) and images.ndim < 4):
            images = [images]  # type: ignore[list-item]
        if not isinstance(images, (np.ndarray, list, tuple)):
            raise ValueError(
                "Expected an image, a list of images or an array (n, height, width, channels). "
                f"Received: {type(images).__name__}"
            )
        if not len(images):
            raise ValueError("Expected at least one image. Received: none")
        starts = range(0, len(images), batch_size)
        batches = (self._batch(images[start : start + batch_size], start) for start in starts)
        return np.concatenate([self._runner.predict(batch, batch_size) for batch in batches])

    def classify(
        self, images: ImageSource | Sequence[ImageSource], top: int = 5
    ) -> list[list[tuple[str, str, float]]]:
        """The most probable classes of every image: tuples of id, name and probability."""
        return self.decode(self.predict(images), top)

    def decode(self, probabilities: np.ndarray, top: int = 5) -> list[list[tuple[str, str, float]]]:
        """The classes behind the columns of what `predict` returns, most probable first."""
        names: Sequence[str] | None = self.class_names
        if names is None and probabilities.shape[-1] != 1000:
            names = [str(index) for index in range(probabilities.shape[-1])]
        return decode_predictions(probabilities, top, names, self._ids)

    def _batch(self, images: Any, start: int) -> np.ndarray:
        """Images as the model takes them; `start` is the index of the first one."""
        if isinstance(images, np.ndarray) and self._input.takes(images.shape[1:]):
            warn_if_scaled(images, stacklevel=3)
            return images
        indexed = enumerate(images, start)
        return np.stack([self._input.prepared(image, index) for index, image in indexed])


class _OtherBackend:
    """A Keras model under another backend than TensorFlow's, compiled in that one's way."""

    def __init__(self, model: keras.Model) -> None:
        if get_info(model).task == "values":
            raise ValueError(
                "Expected a classifier. Received: a network for values, a regression. Call its "
                "`predict` method"
            )
        self._model = model
        self.input_shape, self.width = model.input_shape, model.output_shape[-1]
        last = getattr(model.layers[-1], "activation", None)
        self._is_logits = last not in (keras.activations.softmax, keras.activations.sigmoid)

    def predict(self, images: np.ndarray, batch_size: int) -> np.ndarray:
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 255):
            raise ValueError(
                f"Expected images with pixels in [0, 255]. Received: pixels in [{low:g}, {high:g}]"
            )
        result = np.asarray(self._model.predict_on_batch(images.astype(np.float32)), np.float32)
        if self._is_logits:
            result = keras.ops.convert_to_numpy(keras.ops.softmax(result))
        return result
