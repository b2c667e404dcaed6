"""Runners: every artifact in its own runtime."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet.export import metadata
from keras_resnet.export.file_runners import ONNXRunner, TFLiteRunner
from keras_resnet.export.outputs import FEATURES, named_outputs, output_names, output_ranks
from keras_resnet.export.report.timing_worker import only_signature
from keras_resnet.export.runner import Runner, as_type, channels_last
from keras_resnet.export.servers.safety import check_only_computes
from keras_resnet.models.foreign import FOR_INTEGERS, Hint, adapt, find_layout
from keras_resnet.models.info import ModelInfo, get_info
from keras_resnet.models.outputs import bare
from keras_resnet.models.pixels import find_pixel_format, format_of_keras
from keras_resnet.models.saving import load_model
from keras_resnet.models.untrained import untrained_part
from keras_resnet.support.checks import MODEL_SUFFIXES
from keras_resnet.support.disks import raise_if_full
from keras_resnet.support.placeholders import text_instead


class KerasRunner(Runner):
    """A Keras model, called as one compiled function.

    Attributes:
        model: the model, with its only input and output as tensors.
        traces: how often it was compiled: once, whatever the sizes of batches and images are.
    """

    format, is_keras = "Keras", True

    def __init__(self, model: keras.Model) -> None:
        self.model = model = bare(model)
        self.outputs = output_names(model)
        self.ranks = output_ranks(model, self.outputs)
        self.input_shape = (None, *model.input_shape[1:])
        self.width = keras.tree.flatten(model.outputs)[0].shape[-1]
        self.info = dataclasses.replace(get_info(model), untrained=untrained_part(model))
        self.traces = 0

        def call(image: Any) -> Any:
            self.traces += 1  # Python runs while tracing only.
            return list(named_outputs(model(image, training=False), self.outputs).values())

        # TensorFlow counts how often functions of the same code are traced, and would take those of
        # several models for one that is traced again and again.
        signature = tf.TensorSpec(self.input_shape, tf.float32)
        self._call = tf.function(call).get_concrete_function(signature)

    @classmethod
    def of_file(
        cls, path: Path, change: Callable[[keras.Model], keras.Model] = lambda model: model
    ) -> KerasRunner:
        """The model in a file, which may be of other origin, after a change of it."""
        model = change(load_model(path, compile=False))
        runner = cls(model)
        runner.is_own = runner.info != ModelInfo()
        if not runner.is_own:
            runner.layout = find_layout(runner.input_shape, default="NHWC")
            runner.input_shape = channels_last(runner.input_shape, runner.layout)
            found = format_of_keras(model)
            runner.hint = None if found is None else Hint(*found)
        return runner

    def run(self, batch: np.ndarray) -> Sequence[Any]:
        return self._call(tf.constant(batch))


class SavedModelRunner(Runner):
    """A SavedModel, loaded with `tf.saved_model.load`."""

    format = "SavedModel"

    def __init__(self, path: Path, cut: bool = False) -> None:
        # The loaded object owns the variables and has to outlive the signature.
        self._loaded = tf.saved_model.load(str(path))
        self._signature, self._input, spec = only_signature(self._loaded)
        if cut:
            self._cut()
        self._dtype = spec.dtype.as_numpy_dtype
        info = metadata.of_saved_model(path)
        self.is_own, self.info = info is not None, info or ModelInfo()
        shape: Any = None if spec.shape.rank is None else tuple(spec.shape)
        if not self.is_own:
            if shape is None or spec.dtype == tf.string:
                raise ValueError(
                    f"its input {self._input!r} is {spec}, which is no batch of images"
                )
            self.layout = find_layout(shape, default="NHWC")
            self.takes_integers = np.issubdtype(self._dtype, np.integer)
            self.hint = FOR_INTEGERS if self.takes_integers else None
        self.input_shape = channels_last(shape, self.layout)
        # Names of classes are for clients of servers.
        specs = self._signature.structured_outputs
        self.outputs = tuple(name for name, spec in specs.items() if spec.dtype != tf.string)
        if not self.outputs:
            raise ValueError("it puts out nothing but text")
        self.ranks = tuple(specs[name].shape.rank for name in self.outputs)
        self.width = specs[self.outputs[0]].shape[-1]
        self._names = self.outputs

    def _cut(self) -> None:
        """Takes the signature for vectors, which SavedModels of this package have."""
        if FEATURES not in self._loaded.signatures:
            raise ValueError(
                f"it has no signature {FEATURES!r}, so that only its classes can be had. Take the "
                "Keras, ONNX or TFLite file of the model"
            )
        self._signature, self.is_cut = self._loaded.signatures[FEATURES], True

    def run(self, batch: np.ndarray) -> Sequence[Any]:
        values = self._signature(**{self._input: tf.constant(as_type(batch, self._dtype))})
        return [values[name].numpy() for name in self._names]


#: Of files, by their suffixes; what is none of these is a SavedModel's directory.
_LOADERS: dict[str, Callable[..., Runner]] = {
    **dict.fromkeys(MODEL_SUFFIXES, KerasRunner.of_file),
    ".tflite": TFLiteRunner,
    ".onnx": ONNXRunner,
}


def load_runner(
    path: str | os.PathLike[str],
    *,
    trust: bool = False,
    pixels: str | None = None,
    cut: bool = False,
) -> Runner:
    """Loads a Keras, TFLite or ONNX file or a SavedModel directory into its runtime.

    A SavedModel may be given by its version directory (`saved_model/1`) or by the one above, as TF
    Serving takes it; the highest version is loaded then.

    Classifiers of other origin need one input, a batch of images, and one output, `(batch,
    classes)`, both with any name and in any layout. What was taken for granted about them is in the
    runner's `notes`.

    Args:
        path: a `.keras`, `.h5`, `.tflite` or `.onnx` file, or a directory.
        trust: whether a SavedModel may have operators that do more than compute: its graph is a
            program, which may read and write files. The other formats only compute.
        pixels: how images are normalised before the artifact gets them, a name in
            `keras_resnet.models.pixels.PIXEL_FORMATS`. By default what the file says: artifacts of
            this package take raw pixels; TFLite and ONNX have metadata for it, and quantized inputs
            a range. A Keras model of which nothing is known gets raw pixels, with a warning.
        cut: whether it ends before the last dense layer of a classifier, with the vectors `(n,
            channels)` that this gets, called `"features"`. An artifact of vectors stays as it is.
            Keras models are cut by `keras_resnet.networks.features.pooled`.

    Raises:
        ValueError: it is none of these, cannot be read, is no model of one image, is a SavedModel
            that may do more than compute, or does not say which `pixels` it takes.
        ImportError: the runtime is not installed; the message has the pip line.
    """
    found = checked_artifact(path, trust)
    if pixels is not None:
        find_pixel_format(pixels)
    try:
        loader = _LOADERS.get(found.suffix, SavedModelRunner)
        runner = loader(found)
        if cut and (runner.is_keras or runner.outputs != (FEATURES,)):
            runner = loader(found, cut=True)
        if runner.is_classifier:
            runner.info.check_names(runner.width)
    except ImportError:
        raise
    except Exception as error:
        raise_if_full(error)
        if isinstance(error, ValueError) and str(error).startswith("Expected "):
            # A refusal of this package is whole, but may not name the file.
            if str(path) in str(error):
                raise
            raise ValueError(f"{path}: {error}") from error
        # Each runtime has errors of its own for files that are damaged or speak of other names.
        raise ValueError(
            "Expected an artifact with one image as its input (for `.keras`: a classifier). "
            f"Received: {path}: {error}"
        ) from error
    adapt(runner, path, pixels)
    return runner


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
    other = ", which is something else" if path.exists() else ""
    raise ValueError(
        "Expected an existing `.keras`, `.h5`, `.tflite` or `.onnx` file, or a SavedModel "
        f"directory. Received: {path}{other}"
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
