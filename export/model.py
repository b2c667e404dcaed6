"""The float32 model that the writers of artifacts are given."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet.export.options import ExportOptions
from keras_resnet.export.outputs import (
    IMAGE,
    SIGNATURE,
    classifies,
    named_outputs,
    output_ranks,
)
from keras_resnet.export.tracing import CONVOLUTION, leaf_layers, traced_as
from keras_resnet.models.info import ModelInfo, get_info, learned_ranges, set_info


@dataclass(frozen=True)
class ExportedModel:
    """The model that the writers of artifacts are given.

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
    options: ExportOptions = field(default_factory=ExportOptions)

    def serving_function(self) -> Callable[[Any], dict[str, Any]]:
        """The function of `image` that every format is traced from."""
        return lambda image: named_outputs(self.model(image, training=False), self.outputs)

    @property
    def is_classifier(self) -> bool:
        """Whether the model puts out probabilities or logits of images as a whole."""
        return classifies(self.outputs, output_ranks(self.model, self.outputs))

    @property
    def input_spec(self) -> tf.TensorSpec:
        """The input of float artifacts; its batch size is that of the options."""
        shape = (self.options.batch_size, *self.model.input_shape[1:])
        return tf.TensorSpec(shape, tf.float32, name=IMAGE)

    @cached_property
    def learned(self) -> Mapping[str, tuple[float, float]] | None:
        """Ranges of activations that quantization-aware training has found, by layer."""
        return learned_ranges(self.model)

    @cached_property
    def folder(self) -> Path:
        """A folder in the workspace of this model and these options alone."""
        return Path(tempfile.mkdtemp(dir=self.workspace))

    def cached(self, name: str, make: Callable[[], bytes]) -> bytes:
        """The content of an intermediate file, which is made once."""
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
        function, specs = self.serving_function(), [self.input_spec]
        with traced_as(self.model, [CONVOLUTION]):
            archive.add_endpoint(SIGNATURE, function, input_signature=specs)
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


def as_float32(model: keras.Model) -> keras.Model:
    """The model itself if all its layers compute in float32, else a float32 copy of equal weights.

    TFLite refuses mixed precision, and ONNX Runtime refuses bfloat16.
    """
    if all(layer.compute_dtype == "float32" for layer in leaf_layers(model)):
        return model

    def in_float32(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.Model):
            return keras.models.clone_model(layer, clone_function=in_float32)
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    copy = in_float32(model)
    copy.set_weights(model.get_weights())
    set_info(copy, get_info(model))
    return copy


def check_kept_layers(layers: Iterable[str], model: keras.Model, computed: Collection[str]) -> None:
    """Refuses layers to keep in float that an artifact has no operators of.

    Args:
        layers: their names.
        model: the network.
        computed: names of the layers that have operators in the artifact.

    Raises:
        ValueError: the network has no such layer, or it is a part of another one's operator.
    """
    known = [layer.name for layer in leaf_layers(model)]
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
