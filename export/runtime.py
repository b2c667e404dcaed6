"""Runners: every artifact in its own runtime behind one method, `predict(images)`."""

from __future__ import annotations

import dataclasses
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet.export import metadata
from keras_resnet.export.images import filled_up, image_array
from keras_resnet.export.outputs import (
    IMAGE,
    SIGNATURE,
    classifies,
    named_outputs,
    output_names,
    output_ranks,
)
from keras_resnet.export.servers.safety import check_only_computes
from keras_resnet.models.info import ModelInfo, get_info
from keras_resnet.models.outputs import bare, class_probabilities
from keras_resnet.models.saving import load_model
from keras_resnet.models.untrained import untrained_part
from keras_resnet.support.cores import usable_cores
from keras_resnet.support.disks import raise_if_full
from keras_resnet.support.extras import require
from keras_resnet.support.placeholders import text_instead
from keras_resnet.support.quiet import quiet


class Runner(ABC):
    """An artifact loaded into its runtime.

    Any number of threads may call one runner, with batches of any sizes: each gets the answers to
    its own images. Keras models, SavedModels and ONNX files compute them at the same time, TFLite
    files one batch after the other, each on all cores.

    Attributes:
        input_shape: `(batch, height, width, channels)`, `None` where any size is taken.
        outputs: names of what it puts out: `("probabilities",)` or `("logits",)` for a classifier.
        ranks: how many dimensions each of them has.
        width: numbers along the last dimension of the first, where that is fixed.
        info: what the model knew about itself, such as its class names.
    """

    input_shape: tuple[int | None, ...]
    outputs: tuple[str, ...]
    ranks: tuple[int, ...]
    width: int | None = None
    info: ModelInfo = ModelInfo()

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
        array = image_array(images, (None, *self.input_shape[1:]), "images")
        size = self.input_shape[0] or batch_size
        parts = []
        for start in range(0, len(array), size):
            batch = array[start : start + size]
            values = self.run(filled_up(batch, self.input_shape[0]))
            parts.append({name: value[: len(batch)] for name, value in values.items()})
        return {
            name: np.concatenate([part[name] for part in parts]).astype(np.float32)
            for name in self.outputs
        }

    def answers(self, images: Any) -> dict[str, np.ndarray]:
        """What is compared with other runners': of a classifier the probabilities, as `""`."""
        return {"": self.predict(images)} if self.is_classifier else self.compute(images)

    @abstractmethod
    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """What the artifact itself puts out for one batch, by output, without checks.

        `batch`: `(n, height, width, channels)`, float32, RGB in [0, 255].
        """


class KerasRunner(Runner):
    """A Keras model, called as one compiled function.

    Attributes:
        traces: how often it was compiled: once, whatever the sizes of batches and images are.
    """

    def __init__(self, model: keras.Model) -> None:
        model = bare(model)
        self.outputs = output_names(model)
        self.ranks = output_ranks(model, self.outputs)
        self.input_shape = (None, *model.input_shape[1:])
        self.width = keras.tree.flatten(model.outputs)[0].shape[-1]
        self.info = dataclasses.replace(get_info(model), untrained=untrained_part(model))
        self.traces = 0

        def call(image: Any) -> Any:
            self.traces += 1  # Python runs while tracing only.
            return named_outputs(model(image, training=False), self.outputs)

        self._call = tf.function(call, [tf.TensorSpec(self.input_shape, tf.float32)])

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in self._call(tf.constant(batch)).items()}


class SavedModelRunner(Runner):
    """A SavedModel, loaded with `tf.saved_model.load`."""

    def __init__(self, path: Path) -> None:
        # The loaded object owns the variables and has to outlive the signature.
        self._loaded = tf.saved_model.load(str(path))
        self._signature = self._loaded.signatures[SIGNATURE]
        self.input_shape = tuple(self._signature.structured_input_signature[1][IMAGE].shape)
        # Names of classes are for clients of servers.
        specs = self._signature.structured_outputs
        self.outputs = tuple(name for name, spec in specs.items() if spec.dtype != tf.string)
        self.ranks = tuple(specs[name].shape.rank for name in self.outputs)
        self.width = specs[self.outputs[0]].shape[-1]
        self.info = metadata.of_saved_model(path)

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        values = self._signature(**{IMAGE: tf.constant(batch)})
        return {name: values[name].numpy() for name in self.outputs}


class TFLiteRunner(Runner):
    """A TFLite file in LiteRT, whose interpreter holds one batch: calls wait for one another."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        interpreter = require("ai_edge_litert.interpreter").Interpreter
        with quiet():
            self._interpreter = interpreter(model_path=str(path), num_threads=usable_cores())
            self._interpreter.allocate_tensors()
            self._signature = self._interpreter.get_signature_runner(SIGNATURE)
        self._input = self._signature.get_input_details()[IMAGE]
        self._ends = self._signature.get_output_details()
        shape = self._interpreter.get_input_details()[0]["shape_signature"]
        self.input_shape = tuple(None if side < 0 else int(side) for side in shape)
        self.outputs = tuple(self._ends)
        self.ranks = tuple(len(end["shape"]) for end in self._ends.values())
        self.width = int(self._ends[self.outputs[0]]["shape"][-1])
        self.info = metadata.of_tflite(path)

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        from keras_resnet.export.tflite.inspect import dequantize_output, quantize_input

        pixels = quantize_input(batch, self._input)
        with self._lock:
            values = self._signature(**{IMAGE: pixels})
        return {name: dequantize_output(value, self._ends[name]) for name, value in values.items()}


class ONNXRunner(Runner):
    """An ONNX file in ONNX Runtime, on the CPU."""

    def __init__(self, path: Path) -> None:
        onnxruntime = require("onnxruntime")
        options = onnxruntime.SessionOptions()
        # By itself, it takes all cores of the machine, whatever this process may use.
        options.intra_op_num_threads = usable_cores()
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.info, layout = metadata.of_onnx(self._session)
        self._channels_first = layout == "NCHW"
        shape = self._session.get_inputs()[0].shape
        sides = [side if isinstance(side, int) else None for side in shape]
        if self._channels_first:
            sides = [sides[0], *sides[2:], sides[1]]
        self.input_shape = tuple(sides)
        self.outputs = tuple(output.name for output in self._session.get_outputs())
        self.ranks = tuple(len(output.shape) for output in self._session.get_outputs())
        width = self._session.get_outputs()[0].shape[-1]
        self.width = width if isinstance(width, int) else None

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        if self._channels_first:
            batch = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
        values = self._session.run(self.outputs, {IMAGE: batch})
        if self._channels_first:
            values = [v.transpose(0, 2, 3, 1) if v.ndim == 4 else v for v in values]
        return dict(zip(self.outputs, values, strict=True))


#: Of files, by their suffixes; what is none of these is a SavedModel's directory.
_LOADERS: dict[str, Callable[[Path], Runner]] = {
    ".keras": lambda file: KerasRunner(load_model(file, compile=False)),
    ".tflite": TFLiteRunner,
    ".onnx": ONNXRunner,
}


def load_runner(path: str | os.PathLike[str], *, trust: bool = False) -> Runner:
    """Loads a `.keras`, `.tflite` or `.onnx` file or a SavedModel directory into its runtime.

    A SavedModel may be given by its version directory (`saved_model/1`) or by the one above, as TF
    Serving takes it; the highest version is loaded then.

    Args:
        path: the file or directory.
        trust: whether a SavedModel may have operators that do more than compute: its graph is a
            program, which may read and write files. The other formats only compute.

    Raises:
        ValueError: it is none of these, cannot be read, is no artifact of this package, or is a
            SavedModel that may do more than compute.
        ImportError: the runtime is not installed; the message has the pip line.
    """
    found = checked_artifact(path, trust)
    try:
        runner = _LOADERS.get(found.suffix, SavedModelRunner)(found)
        if runner.is_classifier:
            runner.info.check_names(runner.width)
        return runner
    except ImportError:
        raise
    except Exception as error:
        raise_if_full(error)
        # Each runtime has errors of its own for files that are damaged or speak of other names.
        raise ValueError(
            f"Expected an artifact with the input `{IMAGE}` (for `.keras`: a classifier). "
            f"Received: {path}: {error}"
        ) from error


def checked_artifact(path: str | os.PathLike[str], trust: bool) -> Path:
    """`artifact_path`; refuses texts in the place of an artifact's files.

    Also refuses SavedModels that may do more than compute, unless they are trusted.
    """
    found = artifact_path(path)
    for file in _files_of(found):
        if instead := text_instead(file):
            raise ValueError(f"Expected an artifact that can be read. Received: {file}: {instead}")
    if not trust and found.suffix not in _LOADERS:
        check_only_computes(found)
    return found


def _files_of(artifact: Path) -> list[Path]:
    """The binary files of an artifact that exist."""
    if artifact.is_dir():
        return [artifact / "saved_model.pb", *(artifact / "variables").glob("variables.*")]
    # ONNX may keep its weights beside the file, under one of these usual names.
    names = (f"{artifact.name}{end}" for end in ("", ".data", "_data"))
    return [file for file in map(artifact.with_name, names) if file.is_file()]


def artifact_path(path: str | os.PathLike[str]) -> Path:
    """The file to load, or the SavedModel directory: of several versions, the highest.

    Directories that are laid out for servers are looked into.

    Raises:
        ValueError: there is no artifact.
    """
    path = Path(path)
    if path.suffix in _LOADERS and path.is_file():
        return path
    repositories = [config.parent for config in path.glob("**/config.pbtxt")]
    services = [file.parent / "models" for file in path.glob("**/inference-service.yaml")]
    for directory in (path, *repositories, *services):
        if (found := _highest_version(directory)) is not None:
            return found
    raise ValueError(
        "Expected an existing `.keras`, `.tflite` or `.onnx` file or a SavedModel directory. "
        f"Received: {path}"
    )


def _highest_version(directory: Path) -> Path | None:
    """The model in a folder of versions, or the SavedModel that the folder is."""
    versions = [child for child in directory.glob("*") if child.name.isdigit()]
    for version in (directory, *sorted(versions, key=lambda child: -int(child.name))):
        if (version / "saved_model.pb").is_file():
            return version
        # As Triton wants them.
        for name in ("model.onnx", "model.savedmodel"):
            if version != directory and (version / name).exists():
                return version / name
    return None
