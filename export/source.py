"""What artifacts look like from outside, and the float32 model behind them."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet.models.info import ModelInfo, get_info, learned_ranges, set_info
from keras_resnet.support.checks import check_choice, check_integer, store_integers

IMAGE = "image"
BATCH = "batch"
SIGNATURE = "serving_default"

#: What the output `(batch, classes)` of a classifier is called.
CLASSIFIER_OUTPUTS = ("probabilities", "logits")


@dataclass(frozen=True)
class ExportOptions:
    """What can be chosen about artifacts besides their targets.

    Attributes:
        batch_size: the only batch size that TFLite and ONNX artifacts take; None: any.
        keep_float: names of layers that int8 artifacts compute in float.
        layout: of the ONNX artifacts' input: `"NHWC"` or `"NCHW"`.
        version: directory of a SavedModel's version, for servers.
        serving_batch_sizes: numbers of images in a request that servers are to be ready for.
        storage_uri: where a KServe cluster finds the model, such as `"s3://bucket/folder"`; None:
            in a volume claim of the service's name.

    Raises:
        ValueError: a field has another value than these.
    """

    batch_size: int | None = None
    keep_float: tuple[str, ...] = ()
    layout: str = "NHWC"
    version: int = 1
    serving_batch_sizes: tuple[int, ...] = (1, 4, 16)
    storage_uri: str | None = None

    def __post_init__(self) -> None:
        store_integers(self, ("batch_size", "version"))
        for size in self.serving_batch_sizes:
            check_integer("serving_batch_sizes", size)
        check_choice("layout", self.layout, ("NHWC", "NCHW"))
        if not self.serving_batch_sizes:
            raise ValueError("Expected at least one of `serving_batch_sizes`. Received: none")
        if isinstance(self.keep_float, str):
            raise ValueError(
                f"Expected a tuple of layers as `keep_float`. Received: {self.keep_float!r}"
            )


@dataclass(frozen=True)
class ExportSource:
    """What the writers of artifacts work from.

    Attributes:
        model: a float32 model with one input `(batch, height, width, channels)`: a classifier, or
            one that puts out feature maps.
        calibration: float32 images `(n, height, width, channels)`, RGB in [0, 255], for
            full-integer quantization.
        workspace: where intermediate files go.
        outputs: what the artifact's outputs are called, in the order of the model's.
        info: what the model knows about itself, for the artifact's metadata.
        options: what the user chose.
    """

    model: keras.Model
    calibration: np.ndarray | None
    workspace: Path
    outputs: tuple[str, ...]
    info: ModelInfo = field(default_factory=ModelInfo)
    options: ExportOptions = ExportOptions()

    def serving_function(self) -> Callable[[Any], dict[str, Any]]:
        """The function of `image` that every format is traced from."""

        def serve(image: Any) -> dict[str, Any]:
            return named_outputs(self.model(image, training=False), self.outputs)

        return serve

    @property
    def is_classifier(self) -> bool:
        """Whether the model puts out probabilities or logits of images as a whole."""
        return classifies(self.outputs, output_ranks(self.model, self.outputs))

    @property
    def input_spec(self) -> tf.TensorSpec:
        """Of the float artifacts' input; its batch size is what the options say."""
        shape = (self.options.batch_size, *self.model.input_shape[1:])
        return tf.TensorSpec(shape, tf.float32, name=IMAGE)

    @cached_property
    def learned(self) -> Mapping[str, tuple[float, float]] | None:
        """Ranges of activations that quantization-aware training has found, by layer."""
        return learned_ranges(self.model)

    @cached_property
    def folder(self) -> Path:
        """A folder in the workspace of this source alone; sources may share the workspace."""
        return Path(tempfile.mkdtemp(dir=self.workspace))

    def cached(self, name: str, make: Callable[[], bytes]) -> bytes:
        """The content of an intermediate file of this source, which is made once."""
        path = self.folder / name
        if not path.is_file():
            path.write_bytes(make())
        return path.read_bytes()

    @cached_property
    def saved_model(self) -> Path:
        """A bare SavedModel in the workspace: written once, shared by the converters."""
        path = self.folder / "saved_model"
        archive = keras.export.ExportArchive()
        archive.track(self.model)
        archive.add_endpoint(SIGNATURE, self.serving_function(), input_signature=[self.input_spec])
        archive.write_out(path, verbose=False)
        return path


def check_backend() -> None:
    """Refuses to go on under another Keras backend than TensorFlow's."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "Export expected the Keras backend `tensorflow`. Received: "
            f"{keras.backend.backend()}. Save the model as `.keras` and export it in a process "
            "with KERAS_BACKEND=tensorflow"
        )


def named_outputs(values: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """A model's output or outputs by name, which `output_names` gives."""
    if isinstance(values, dict):
        return {name: values[name] for name in names}
    return dict(zip(names, keras.tree.flatten(values), strict=True))


def output_names(model: Any) -> tuple[str, ...]:
    """What the outputs of a model's artifacts are called.

    That of a classifier is called `probabilities` if it ends with a softmax or sigmoid, else
    `logits`; that of a regression from `replace_head` is called `values`; other outputs have the
    keys or the names that they have in the model.

    Raises:
        ValueError: it is no Keras model with one image as its input, or it is a classifier of one
            class.
    """
    shape = getattr(model, "input_shape", None)
    if not isinstance(model, keras.Model) or not isinstance(shape, tuple) or len(shape) != 4:
        raise ValueError(
            "Expected a Keras model with one input (batch, height, width, channels). "
            f"Received: {type(model).__name__} with input {shape}"
        )
    # A `Sequential` has one output, and none that it would show.
    structure = None if isinstance(model, keras.Sequential) else model.output
    if isinstance(structure, dict):
        return tuple(structure)
    if isinstance(structure, (list, tuple)):
        return tuple(model.output_names)
    outputs = model.output_shape
    last = _last_layer(model)
    if len(outputs) != 2 or isinstance(last, (*_POOLING, *_NORMALISATIONS)):
        return ("features",)
    task = get_info(model).task
    if task == "values":
        return ("values",)
    if outputs[1] is None or (outputs[1] < 2 and task != "labels"):
        raise ValueError(
            "Expected a Keras classifier of at least two classes. Received: a model that ends with "
            f"{last.name} and puts out {outputs}"
        )
    return (_classifier_output(model),)


def output_ranks(model: keras.Model, names: Sequence[str]) -> tuple[int, ...]:
    """How many dimensions the outputs have, by `names`, which are those of `output_names`."""
    if isinstance(model, keras.Sequential):
        return (len(model.output_shape),)
    return tuple(len(x.shape) for x in named_outputs(model.output, tuple(names)).values())


def classifies(names: Sequence[str], ranks: Sequence[int]) -> bool:
    """Whether outputs are those of a classifier: one, `(batch, classes)`, and called so.

    A segmenter, too, may call its map of every pixel's classes `"probabilities"`.
    """
    return len(names) == 1 and names[0] in CLASSIFIER_OUTPUTS and ranks[0] == 2


_POOLING = (
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Flatten,
)


#: What embeddings end with, and classifiers do not.
_NORMALISATIONS = (
    keras.layers.UnitNormalization,
    keras.layers.LayerNormalization,
    keras.layers.BatchNormalization,
)


def _classifier_output(model: keras.Model) -> str:
    """`"probabilities"` or `"logits"`.

    Asked of the model's own answers first: a softmax may come from a layer, an activation or an
    operation, inside another model or before a cast. Rows that are not negative and sum to one are
    probabilities.
    """
    height, width, channels = model.input_shape[1:]
    noise = np.random.default_rng(0).uniform(0, 255, (2, height or 64, width or 64, channels))
    answers = np.asarray(model(noise.astype(np.float32), training=False), np.float64)
    sums_to_one = answers.min() >= 0 and np.allclose(answers.sum(-1), 1, atol=1e-2)
    activation = getattr(_last_layer(model), "activation", None)
    squashed = activation in (keras.activations.softmax, keras.activations.sigmoid)
    return "probabilities" if sums_to_one or squashed else "logits"


def _last_layer(model: keras.Model) -> keras.Layer:
    """The layer that was made last; where a model has one output, that is its output's."""
    layer = model.layers[-1]
    return _last_layer(layer) if isinstance(layer, keras.Model) else layer


def as_float32(model: keras.Model) -> keras.Model:
    """The model itself if all its layers compute in float32, else a float32 copy of equal weights.

    TFLite refuses mixed precision, and ONNX Runtime refuses bfloat16.
    """
    if all(layer.compute_dtype == "float32" for layer in _all_layers(model)):
        return model

    def in_float32(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.Model):
            return keras.models.clone_model(layer, clone_function=in_float32)
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    copy = in_float32(model)
    copy.set_weights(model.get_weights())
    set_info(copy, get_info(model))
    return copy


def _all_layers(model: keras.Model) -> Iterator[keras.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _all_layers(layer)
        else:
            yield layer


def check_kept_layers(layers: Iterable[str], model: keras.Model, computed: Collection[str]) -> None:
    """Refuses layers to keep in float that an artifact has no operators of.

    Args:
        layers: their names.
        model: the network.
        computed: names of the layers that have operators in the artifact.

    Raises:
        ValueError: the network has no such layer, or it is a part of another one's operator.
    """
    known = [layer.name for layer in _all_layers(model)]
    for layer in layers:
        if layer in computed:
            continue
        if layer not in known:
            close = ", ".join(difflib.get_close_matches(layer, known, 3, 0.5)) or "none"
            raise ValueError(
                f"Expected `keep_float` to name layers of the network. Received: {layer!r}. "
                f"Close matches: {close}"
            )
        before = next((n for n in reversed(known[: known.index(layer)]) if n in computed), None)
        hint = "" if before is None else f". It may be a part of {before!r}: keep that one"
        raise ValueError(
            "Expected `keep_float` to name layers with operators of their own. "
            f"Received: {layer!r}, which has none{hint}"
        )


def filled_up(batch: np.ndarray, size: int | None) -> np.ndarray:
    """The batch with its last image repeated up to `size`, for what takes that size only."""
    return batch if size is None else batch.take(range(size), axis=0, mode="clip")


def image_array(
    images: Iterable[Any] | np.ndarray, input_shape: tuple[int | None, ...], what: str
) -> np.ndarray:
    """Stacks images into float32 `(n, height, width, channels)`.

    Args:
        images: images `(height, width, channels)`, uint8 or float, RGB in [0, 255].
        input_shape: the model's, `(batch, height, width, channels)`.
        what: what they are, for messages.

    Raises:
        ValueError: the model does not take such images, or the pixels are not in [0, 255].
    """
    images = images if isinstance(images, np.ndarray) else list(images)
    shape = ", ".join("any" if side is None else str(side) for side in input_shape[1:])
    expected = f"Expected {what} of shape (n, {shape})"
    try:
        array = np.asarray(images, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{expected}. Received: what is no array of numbers: {error}") from error
    matches = array.ndim == 4 and all(
        want in (None, have) for want, have in zip(input_shape[1:], array.shape[1:], strict=True)
    )
    if not matches or not len(array):
        raise ValueError(f"{expected}. Received: {array.shape}")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 255):
        raise ValueError(
            f"Expected {what} with pixels in [0, 255]. Received: pixels in [{low:g}, {high:g}]"
        )
    return array
