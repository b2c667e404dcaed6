"""Preparation of a model for export."""

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
    """Model that artifacts are written from, with its calibration images and options.

    Attributes:
        model: float32 model with one input `(batch, height, width, channels)`: a classifier, or a
            model that returns feature maps.
        calibration: float32 images `(n, height, width, channels)`, RGB in [0, 255], for
            full-integer quantization; `None` if there are none.
        workspace: directory for intermediate files.
        outputs: names of the artifact's outputs, in the order of the model's outputs.
        info: information about the model, for the artifact's metadata.
        options: options of the artifacts.
    """

    model: keras.Model
    calibration: np.ndarray | None
    workspace: Path
    outputs: tuple[str, ...]
    info: ModelInfo = field(default_factory=ModelInfo)
    options: ExportOptions = field(default_factory=ExportOptions)

    def serving_function(self) -> Callable[[Any], dict[str, Any]]:
        """Return the function of `image` that every format is traced from."""
        return lambda image: named_outputs(self.model(image, training=False), self.outputs)

    @property
    def is_classifier(self) -> bool:
        """Return whether the model gives probabilities or logits for whole images."""
        return classifies(self.outputs, output_ranks(self.model, self.outputs))

    @property
    def input_spec(self) -> tf.TensorSpec:
        """Shape, type and name of the input; the batch size is that of the options."""
        shape = (self.options.batch_size, *self.model.input_shape[1:])
        return tf.TensorSpec(shape, tf.float32, name=IMAGE)

    @cached_property
    def learned(self) -> Mapping[str, tuple[float, float]] | None:
        """Ranges of activations from quantization-aware training by layer name, if any."""
        return learned_ranges(self.model)

    @cached_property
    def folder(self) -> Path:
        """Folder in the workspace for this model with these options."""
        return Path(tempfile.mkdtemp(dir=self.workspace))

    def cached(self, name: str, make: Callable[[], bytes]) -> bytes:
        """Return the content of an intermediate file; `make` is called once to create it."""
        path = self.folder / name
        if not path.is_file():
            path.write_bytes(make())
        return path.read_bytes()

    @cached_property
    def saved_model(self) -> Path:
        """SavedModel in the workspace that TFLite files are converted from, written once."""
        path = self.folder / "saved_model"
        archive = keras.export.ExportArchive()
        archive.track(self.model)
        function, specs = self.serving_function(), [self.input_spec]
        with traced_as(self.model, [CONVOLUTION]):
            archive.add_endpoint(SIGNATURE, function, input_signature=specs)
            archive.write_out(path, verbose=False)
        return path


def check_backend() -> None:
    """Raise RuntimeError if the Keras backend is not TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "Expected the Keras backend `tensorflow` for an export. Received: "
            f"{keras.backend.backend()}. Save the model as `.keras` and export it in a process "
            "with KERAS_BACKEND=tensorflow"
        )


def as_float32(model: keras.Model) -> keras.Model:
    """Return the model if all of its layers compute in float32, else a float32 copy.

    TFLite cannot express mixed precision, and ONNX Runtime has no bfloat16.
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
    """Raise ValueError if a layer to keep in float has no operator of its own in the artifact.

    Args:
        layers: names of the layers to keep in float.
        model: the exported model.
        computed: names of the layers with operators in the artifact.

    Raises:
        ValueError: the model has no such layer, or the layer is part of another layer's operator.
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
        hint = "" if before is None else f". It may be part of {before!r}: keep that layer instead"
        raise ValueError(
            "Expected `keep_float` to name layers that have an operator of their own in the "
            f"artifact. Received: {layer!r}, which has none{hint}"
        )
