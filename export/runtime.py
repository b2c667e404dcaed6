"""`load_runner()` and the runners for Keras models and SavedModels."""

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
    """Runner of a Keras model, which is called as one compiled function.

    Attributes:
        model: the model, with its only input and output as tensors.
        traces: number of times that the model was traced: once for all sizes of batches and images.
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

        # A concrete function, as TensorFlow counts the traces of all functions with the same code,
        # and would warn that one function is traced repeatedly when there are several models.
        signature = tf.TensorSpec(self.input_shape, tf.float32)
        self._call = tf.function(call).get_concrete_function(signature)

    @classmethod
    def of_file(
        cls, path: Path, change: Callable[[keras.Model], keras.Model] = lambda model: model
    ) -> KerasRunner:
        """Return the runner of a file, of this package or another, after `change` of the model."""
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
    """Runner of a SavedModel."""

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
                raise ValueError(f"its input {self._input!r} is {spec}, not a batch of images")
            self.layout = find_layout(shape, default="NHWC")
            self.takes_integers = np.issubdtype(self._dtype, np.integer)
            self.hint = FOR_INTEGERS if self.takes_integers else None
        self.input_shape = channels_last(shape, self.layout)
        # Outputs of strings are class names for the clients of servers.
        specs = self._signature.structured_outputs
        self.outputs = tuple(name for name, spec in specs.items() if spec.dtype != tf.string)
        if not self.outputs:
            raise ValueError("all of its outputs are strings")
        self.ranks = tuple(specs[name].shape.rank for name in self.outputs)
        self.width = specs[self.outputs[0]].shape[-1]
        self._names = self.outputs

    def _cut(self) -> None:
        """Use the signature for features, which the SavedModels of this package have."""
        if FEATURES not in self._loaded.signatures:
            raise ValueError(
                f"it has no signature {FEATURES!r}. Use the Keras, ONNX or TFLite file of the model"
            )
        self._signature, self.is_cut = self._loaded.signatures[FEATURES], True

    def run(self, batch: np.ndarray) -> Sequence[Any]:
        values = self._signature(**{self._input: tf.constant(as_type(batch, self._dtype))})
        return [values[name].numpy() for name in self._names]


#: Loaders of files by their suffixes; anything else is the directory of a SavedModel.
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
    """Load a Keras, TFLite or ONNX file or a SavedModel directory into its runtime.

    The path of a SavedModel may be that of a version (`saved_model/1`), or the directory above, of
    which the highest version is loaded.

    Artifacts of other packages are loaded, too, if they have one input, a batch of images, and one
    output, `(batch, classes)`, with any names and in any layout. The runner's `notes` say what was
    assumed about them.

    Examples:
        >>> runner = load_runner("exported/model.onnx")
        >>> probabilities = runner.predict(images)  # (n, height, width, 3), RGB in [0, 255]

    Args:
        path: `.keras`, `.h5`, `.tflite` or `.onnx` file, or directory of a SavedModel.
        trust: whether to load a SavedModel whose operators may do more than compute, such as
            reading and writing files. Files of the other formats can only compute.
        pixels: normalization of images before the artifact gets them: `"raw"`, `"unit"`, `"tf"`,
            `"imagenet"` or `"caffe"`. By default what the artifact tells: artifacts of this package
            take raw pixels, TFLite and ONNX files may have metadata about them, and a quantized
            input has a range. A Keras model without any information gets raw pixels, with a
            warning.
        cut: whether to end a classifier before its last dense layer. The output is then
            `"features"`, float32 `(n, channels)`. An artifact that already ends there stays as it
            is. Not for Keras models, which `keras_resnet.networks.features.pooled` cuts.

    Raises:
        ValueError: the file or directory is not an artifact, cannot be read, does not take one
            batch of images, may do more than compute, or does not tell which `pixels` it takes.
        ImportError: the runtime is not installed. The message says how to install it.
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
            # The message of this package is complete, but may not name the file.
            if str(path) in str(error):
                raise
            raise ValueError(f"{path}: {error}") from error
        # Each runtime has error classes of its own for damaged files.
        raise ValueError(
            "Expected an artifact that takes one batch of images (for `.keras`: a classifier). "
            f"Received: {path}: {error}"
        ) from error
    adapt(runner, path, pixels)
    return runner


def checked_artifact(path: str | os.PathLike[str], trust: bool) -> Path:
    """Return `artifact_path(path)`, once it is safe to load.

    Raises:
        ValueError: there is no artifact, one of its files is a text that stands for the file (such
            as a Git LFS pointer), or it is a SavedModel that may do more than compute, without
            `trust`.
    """
    found = artifact_path(path)
    for file in _files_of(found):
        if instead := text_instead(file):
            raise ValueError(f"Expected an artifact that can be read. Received: {file}: {instead}")
    if not trust and found.suffix not in _LOADERS:
        check_only_computes(found)
    return found


def _files_of(artifact: Path) -> list[Path]:
    """Return the existing binary files of an artifact."""
    if artifact.is_dir():
        return [artifact / "saved_model.pb", *(artifact / "variables").glob("variables.*")]
    # An ONNX model may keep its weights in a second file, usually with one of these names.
    names = (f"{artifact.name}{end}" for end in ("", ".data", "_data"))
    return [file for file in map(artifact.with_name, names) if file.is_file()]


def artifact_path(path: str | os.PathLike[str]) -> Path:
    """Return the file or SavedModel directory to load: the highest of several versions.

    The directory may also be laid out for Triton or KServe.

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
    other = ", which is neither" if path.exists() else ", which does not exist"
    raise ValueError(
        "Expected an existing `.keras`, `.h5`, `.tflite` or `.onnx` file, or a SavedModel "
        f"directory. Received: {path}{other}"
    )


def _highest_version(directory: Path) -> Path | None:
    """Return the highest version in a directory, or the directory if it is a SavedModel."""
    versions = [child for child in directory.glob("*") if child.name.isdigit()]
    for version in (directory, *sorted(versions, key=lambda child: -int(child.name))):
        if (version / "saved_model.pb").is_file():
            return version
        # Triton's names for the files of a version.
        for name in ("model.onnx", "model.savedmodel"):
            if version != directory and (version / name).exists():
                return version / name
    return None
