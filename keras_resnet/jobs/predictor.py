"""Classification of images with a Keras model or an artifact."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnet.images.decode import ImageLike
from keras_resnet.images.labels import decode_predictions
from keras_resnet.images.protocol import EvalProtocol, warn_if_scaled
from keras_resnet.models.foreign import Hint, adapt
from keras_resnet.models.info import ModelInfo, get_info
from keras_resnet.models.input import ModelInput
from keras_resnet.models.outputs import bare, class_probabilities, output_kind
from keras_resnet.models.pixels import PIXEL_FORMATS, find_pixel_format, format_of_keras
from keras_resnet.models.saving import load_model
from keras_resnet.models.untrained import untrained_part, warn_if_untrained
from keras_resnet.support.checks import MODEL_SUFFIXES, check_integer


class Predictor:
    """A classifier of images: a Keras model or an artifact, with image preparation.

    A Keras model is compiled once. A predictor may be used by several threads. An untrained model
    causes a warning.

    Attributes:
        protocol: how image files are resized and cropped.
        class_names: names of the classes in the order of the outputs; None if they are not known.
        class_ids: identifiers of the classes, such as WordNet IDs; None if they are not known.
        input_shape: `(batch, height, width, channels)`, None for any size.
        traces: number of times that the function of a Keras model was compiled.
        pixels: normalization of the pixels for the model; `"raw"` for models of this package, which
            normalize pixels themselves.
        notes: for artifacts from elsewhere, sentences about how they are run and why.

    Examples:
        >>> predictor = Predictor("runs/flowers/best.keras")
        >>> predictor.classify("rose.jpg", top=2)
    """

    def __init__(
        self,
        model: keras.Model | str | os.PathLike[str],
        *,
        protocol: EvalProtocol | None = None,
        class_names: Sequence[str] | None = None,
        trust: bool = False,
        pixels: str | None = None,
    ) -> None:
        """Load a model.

        Args:
            model: a classifier, or the path of a `.keras`, `.h5`, `.tflite` or `.onnx` file or of a
                SavedModel directory, from this package or from elsewhere.
            protocol: how image files are resized and cropped; None: as the model says, or a crop of
                its input size from an image whose short side is larger by 1 / 0.875.
            class_names: names of the classes in the order of the outputs, instead of those that the
                model knows.
            trust: as for `keras_resnet.export.load_runner`.
            pixels: normalization of the pixels for the model: `"raw"`, `"unit"`, `"tf"`,
                `"imagenet"` or `"caffe"` (see `keras_resnet.models.pixels`). None: `"raw"` for a
                Keras model; for an artifact, as for `keras_resnet.export.load_runner`.

        Raises:
            ValueError: If the artifact cannot be read, is not a classifier of images, does not say
                which pixels it takes, or has another number of classes than `class_names`.
        """
        self._runner: Any = _runner_of(model, trust, pixels)
        info = self._runner.info
        self.pixels: str = self._runner.pixels.name
        self.notes: tuple[str, ...] = self._runner.notes
        self._origin = model.name if isinstance(model, keras.Model) else os.fspath(model)
        self.input_shape: tuple[int | None, ...] = self._runner.input_shape
        self._input = ModelInput(self.input_shape, info, protocol)
        self.protocol = self._input.protocol
        if isinstance(class_names, str):
            raise ValueError(f"Expected a list of `class_names`. Received: {class_names!r}")
        self.class_names = tuple(class_names) if class_names is not None else info.class_names
        self.class_ids = None if class_names is not None else info.class_ids
        named = ModelInfo(self.class_names, self.class_ids, task=info.task)
        named.check_names(self._runner.width)
        self._is_untrained = info.untrained is not None
        warn_if_untrained(self._origin, info.untrained, stacklevel=2)

    def __repr__(self) -> str:
        protocol = self.protocol
        shape = "x".join("any" if side is None else str(side) for side in self.input_shape[1:])
        names = "named" if self.class_names is not None else "without names"
        return (
            f"<Predictor of {self._origin} ({self._runner.format}): images {shape}, short side "
            f"{protocol.resize}, crop {protocol.size}, {protocol.interpolation}; pixels "
            f"{self.pixels}; {self._runner.width} classes, {names}>"
        )

    @property
    def traces(self) -> int:
        return int(getattr(self._runner, "traces", 0))

    def predict(self, images: ImageLike | Sequence[ImageLike], batch_size: int = 32) -> np.ndarray:
        """Return class probabilities.

        Args:
            images: one image or several: paths, bytes of image files, or arrays
                `(height, width, 3)`, uint8 or float, RGB in [0, 255]. They are resized and cropped
                by `protocol`, except for arrays of the input size of the model, and an array
                `(n, height, width, channels)` of its input shape.
            batch_size: largest number of images that are prepared and run at once.

        Returns:
            Probabilities `(n, classes)`, float32.

        Raises:
            ValueError: If an image cannot be read, or its pixels are outside [0, 255]; the message
                names the image.
        """
        check_integer("batch_size", batch_size)
        warn_if_scaled(images, stacklevel=2)
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

    def predict_prepared(self, images: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """Return class probabilities of images that are already cropped.

        Args:
            images: `(n, height, width, 3)`, uint8, RGB, of a size that the model takes. They are
                converted to gray for a model with one channel.
            batch_size: largest number of images that are run at once.

        Returns:
            Probabilities `(n, classes)`, float32.
        """
        probabilities: np.ndarray = self._runner.predict(
            self._input.with_channels(images), batch_size
        )
        return probabilities

    def prepared(self, image: ImageLike) -> np.ndarray:
        """Return an image as `predict` passes it to the model, `(height, width, channels)`.

        `predict` takes a stack of prepared images without further changes, which needs less memory
        than the original images.

        Raises:
            UnreadableImageError: If the image cannot be read.
        """
        return self._input.prepared(image)

    def classify(
        self, images: ImageLike | Sequence[ImageLike], top: int = 5
    ) -> list[list[tuple[str, str, float]]]:
        """Return the most probable classes of every image.

        Args:
            images: as for `predict`.
            top: number of classes per image.

        Returns:
            A list per image of tuples `(id, name, probability)`, most probable first. Classes
            without names get their index as a name, except for 1,000 classes of a trained model,
            which get the names of ImageNet.
        """
        return self.decode(self.predict(images), top)

    def decode(self, probabilities: np.ndarray, top: int = 5) -> list[list[tuple[str, str, float]]]:
        """Return the most probable classes for probabilities from `predict`; see `classify`."""
        names: Sequence[str] | None = self.class_names
        # Untrained models do not get the names of ImageNet.
        if names is None and (probabilities.shape[-1] != 1000 or self._is_untrained):
            names = [str(index) for index in range(probabilities.shape[-1])]
        return decode_predictions(probabilities, top, names, self.class_ids)

    def _batch(self, images: Any, start: int) -> np.ndarray:
        """Return images as the model takes them; `start` is the index of the first one."""
        if isinstance(images, np.ndarray) and self._input.takes(images.shape[1:]):
            return images
        indexed = enumerate(images, start)
        return np.stack([self._input.prepared(image, index) for index, image in indexed])


def _runner_of(model: keras.Model | str | os.PathLike[str], trust: bool, pixels: str | None) -> Any:
    in_tensorflow = keras.backend.backend() == "tensorflow"
    if not isinstance(model, keras.Model):
        if not in_tensorflow and Path(model).suffix in MODEL_SUFFIXES:
            return OtherBackend.of_file(Path(model), pixels)
        # Imported here, as runners of artifacts need TensorFlow.
        from keras_resnet.export.runtime import load_runner

        return load_runner(model, trust=trust, pixels=pixels)
    runner: Any
    if in_tensorflow:
        from keras_resnet.export.runtime import KerasRunner

        runner = KerasRunner(model)
    else:
        runner = OtherBackend(model)
        runner.check_classifier()
    runner.pixels = find_pixel_format(pixels or "raw", runner.input_shape[-1])
    return runner


class OtherBackend:
    """A runner for a Keras model under a backend other than TensorFlow.

    Calls run one at a time, as Keras moves the state of the model into each call and back. The
    class has the methods and attributes of `keras_resnet.export.Runner` that are used here.
    """

    format, is_keras, is_own, is_cut, takes_integers = "Keras", True, True, False, False
    layout: Any = None
    hint: Any = None
    notes: tuple[str, ...] = ()
    pixels = PIXEL_FORMATS["raw"]

    def __init__(self, model: keras.Model) -> None:
        self._lock = threading.Lock()
        self.model, self._kind = bare(model), output_kind(model)
        self.info = dataclasses.replace(get_info(model), untrained=untrained_part(model))
        self.outputs = (str(self._kind),)
        self.is_classifier = self._kind in ("probabilities", "logits")
        self.input_shape, self.width = self.model.input_shape, self.model.output_shape[-1]

    @classmethod
    def of_file(
        cls,
        path: Path,
        pixels: str | None,
        change: Callable[[keras.Model], keras.Model] = lambda model: model,
    ) -> OtherBackend:
        """Return a runner for the model in a file, after applying `change` to the model."""
        model = change(load_model(path, compile=False))
        runner, found = cls(model), format_of_keras(model)
        runner.is_own = runner.info != ModelInfo()
        runner.hint = None if found is None else Hint(*found)
        adapt(runner, path, pixels)
        return runner

    def check_classifier(self) -> None:
        """Raise ValueError if the model is not a classifier."""
        if not self.is_classifier:
            raise ValueError(
                f"Expected a classifier. Received: {self.model.name}, which returns "
                f"{self._kind or 'several outputs'}. Call its `predict` method"
            )

    def predict(self, images: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """Return class probabilities `(n, classes)`, float32, of one batch of images."""
        (result,) = self.compute(images, batch_size).values()
        return class_probabilities(
            result, logits=self._kind == "logits", pairs=self.info.task is None
        )

    def compute(self, images: np.ndarray, batch_size: int = 32) -> dict[str, np.ndarray]:
        """Return the output of the model for one batch, float32, by the kind of the output."""
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 255):
            raise ValueError(
                f"Expected images with pixels in [0, 255]. Received: pixels in [{low:g}, {high:g}]"
            )
        with self._lock:
            outputs = self.model.predict_on_batch(self.pixels.apply(images))
        return {str(self._kind): np.asarray(outputs, np.float32)}
