"""Classification of image files with a model or any artifact of it."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnet.images.decode import ImageSource
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
    """Classifies images with a Keras model or an artifact, through one compiled function.

    A model that was never trained is warned of.

    Any number of threads may call one predictor, as `keras_resnet.export.load_runner` says.

    Attributes:
        protocol: how image files are resized and cropped.
        class_names: one per class; `None` if nobody named them.
        class_ids: identifiers of the classes, such as WordNet's, if there are any.
        input_shape: `(batch, height, width, channels)`, `None` where any size is taken.
        traces: how often the function of a Keras model was compiled.
        pixels: how images are normalized before the model gets them; models of this package take
            them raw.
        notes: of an artifact of other origin, how it is run and why, in sentences.
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
        """Load an artifact, or takes a model as it is.

        Args:
            model: a classifier, or the path of a `.keras`, `.h5`, `.tflite` or `.onnx` file or of a
                SavedModel directory, of this package or of others.
            protocol: how image files are resized and cropped; by default what the model knows
                about itself, else for its input size, of which the crop takes 87.5 %.
            class_names: one per class, in place of those that the model knows.
            trust: as of `keras_resnet.export.load_runner`.
            pixels: how images are normalized before the model gets them, `"raw"`, `"unit"`,
                `"tf"`, `"imagenet"` or `"caffe"` (see `keras_resnet.models.pixels`); by default raw
                for a model, and for an artifact what it says, as of
                `keras_resnet.export.load_runner`.

        Raises:
            ValueError: If the artifact cannot be read, is no classifier of images, does not say
                which pixels it takes, or has another number of classes than there are names.
        """
        self._runner: Any = _runner_of(model, trust, pixels)
        info = self._runner.info
        self.pixels: str = self._runner.pixels.name
        self.notes: tuple[str, ...] = self._runner.notes
        self._source = model.name if isinstance(model, keras.Model) else os.fspath(model)
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
        warn_if_untrained(self._source, info.untrained, stacklevel=2)

    def __repr__(self) -> str:
        how = self.protocol
        shape = "x".join("any" if side is None else str(side) for side in self.input_shape[1:])
        names = "named" if self.class_names is not None else "without names"
        return (
            f"<Predictor of {self._source} ({self._runner.format}): images {shape}, short side "
            f"{how.resize}, crop {how.size}, {how.interpolation}; pixels {self.pixels}; "
            f"{self._runner.width} classes, {names}>"
        )

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
            ValueError: If an image cannot be read, or has another range; the message says which.
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
        """Class probabilities `(n, classes)`, float32, of images that are cropped already.

        Args:
            images: `(n, height, width, 3)`, uint8, RGB, of a size that the model takes; a model of
                one channel gets them in gray.
            batch_size: how many are run at once, at most.
        """
        probabilities: np.ndarray = self._runner.predict(
            self._input.with_channels(images), batch_size
        )
        return probabilities

    def prepared(self, image: ImageSource) -> np.ndarray:
        """One image as `predict` hands it to the model, `(height, width, channels)`.

        A stack of such is predicted as it is, without the memory that whole pictures take.

        Raises:
            UnreadableImageError: If it cannot be read.
        """
        return self._input.prepared(image)

    def classify(
        self, images: ImageSource | Sequence[ImageSource], top: int = 5
    ) -> list[list[tuple[str, str, float]]]:
        """Return the most probable classes of every image: tuples of id, name and probability.

        A class without a name is called by its index; 1,000 of them are ImageNet's, unless the
        classifier was never trained.
        """
        return self.decode(self.predict(images), top)

    def decode(self, probabilities: np.ndarray, top: int = 5) -> list[list[tuple[str, str, float]]]:
        """Return the classes behind the columns of what `predict` returns, most probable first."""
        names: Sequence[str] | None = self.class_names
        # Random weights know no classes, not even ImageNet's.
        if names is None and (probabilities.shape[-1] != 1000 or self._is_untrained):
            names = [str(index) for index in range(probabilities.shape[-1])]
        return decode_predictions(probabilities, top, names, self.class_ids)

    def _batch(self, images: Any, start: int) -> np.ndarray:
        """Images as the model takes them; `start` is the index of the first one."""
        if isinstance(images, np.ndarray) and self._input.takes(images.shape[1:]):
            return images
        indexed = enumerate(images, start)
        return np.stack([self._input.prepared(image, index) for index, image in indexed])


def _runner_of(model: keras.Model | str | os.PathLike[str], trust: bool, pixels: str | None) -> Any:
    in_tensorflow = keras.backend.backend() == "tensorflow"
    if not isinstance(model, keras.Model):
        if not in_tensorflow and Path(model).suffix in MODEL_SUFFIXES:
            return OtherBackend.of_file(Path(model), pixels)
        # Artifacts are TensorFlow's, and so is the compiled function of a model.
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
    """A Keras model under another backend than TensorFlow's, compiled in that one's way.

    Keras moves the model's state into such a call and back, so calls wait for one another. It has
    the methods and attributes of `keras_resnet.export.Runner` that are used here.
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
        """Return the model in a file, which may be of other origin, after a change of it."""
        model = change(load_model(path, compile=False))
        runner, found = cls(model), format_of_keras(model)
        runner.is_own = runner.info != ModelInfo()
        runner.hint = None if found is None else Hint(*found)
        adapt(runner, path, pixels)
        return runner

    def check_classifier(self) -> None:
        """Raise a `ValueError` if this is no classifier."""
        if not self.is_classifier:
            raise ValueError(
                f"Expected a classifier. Received: {self.model.name}, which puts out "
                f"{self._kind or 'several outputs'}. Call its `predict` method"
            )

    def predict(self, images: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """Class probabilities `(n, classes)`, float32, of images that are run at once."""
        (result,) = self.compute(images, batch_size).values()
        return class_probabilities(
            result, logits=self._kind == "logits", pairs=self.info.task is None
        )

    def compute(self, images: np.ndarray, batch_size: int = 32) -> dict[str, np.ndarray]:
        """Return the only output by what it is, float32, as the model gives it."""
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 255):
            raise ValueError(
                f"Expected images with pixels in [0, 255]. Received: pixels in [{low:g}, {high:g}]"
            )
        with self._lock:
            answers = self.model.predict_on_batch(self.pixels.apply(images))
        return {str(self._kind): np.asarray(answers, np.float32)}
