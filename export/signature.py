"""What every artifact looks like from outside: its names, and the float32 model that it is made from."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

IMAGE = "image"
BATCH = "batch"
SIGNATURE = "serving_default"

OutputName = Literal["probabilities", "logits"]


@dataclass(frozen=True)
class ExportSource:
    """What the writers of artifacts work from.

    Attributes:
        model: a float32 classifier `(batch, height, width, channels)` -> `(batch, classes)`.
        calibration: float32 images `(n, height, width, channels)`, RGB in [0, 255], for full-integer quantization.
        workspace: where intermediate files go.
    """

    model: keras.Model
    calibration: np.ndarray | None
    workspace: Path

    @property
    def output_name(self) -> OutputName:
        return output_name(self.model)

    def serving_function(self) -> Callable[[Any], dict[str, Any]]:
        """The function of `image` that every format is traced from."""

        def serve(image: Any) -> dict[str, Any]:
            return {self.output_name: self.model(image, training=False)}

        return serve

    @property
    def input_spec(self) -> tf.TensorSpec:
        return tf.TensorSpec((None, *self.model.input_shape[1:]), tf.float32, name=IMAGE)

    @cached_property
    def saved_model(self) -> Path:
        """A SavedModel of the model in the workspace, written on first use and shared by the converters."""
        path = Path(tempfile.mkdtemp(prefix="saved-model-", dir=self.workspace))
        archive = keras.export.ExportArchive()
        archive.track(self.model)
        archive.add_endpoint(SIGNATURE, self.serving_function(), input_signature=[self.input_spec])
        archive.write_out(path, verbose=False)
        return path


def check_classifier(model: Any) -> None:
    """Refuses what cannot be exported as `image` -> `probabilities` or `logits`."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "Export expected the Keras backend `tensorflow`. Received: "
            f"{keras.backend.backend()}. Save the model as `.keras` and export it in a process with "
            "KERAS_BACKEND=tensorflow"
        )
    shapes = (getattr(model, "input_shape", None), getattr(model, "output_shape", None))
    valid = all(isinstance(shape, tuple) for shape in shapes) and [len(shape or ()) for shape in shapes] == [4, 2]
    if not isinstance(model, keras.Model) or not valid:
        raise ValueError(
            "Expected a Keras classifier with one input (batch, height, width, channels) and one output "
            f"(batch, classes). Received: {type(model).__name__} with input {shapes[0]} and output {shapes[1]}"
        )


def output_name(model: keras.Model) -> OutputName:
    """`"logits"` if the model ends without an activation, else `"probabilities"`."""
    layer = model.layers[-1]
    activation = getattr(layer, "activation", None)
    ends_linear = activation in (None, keras.activations.linear)
    return "logits" if ends_linear and not isinstance(layer, keras.layers.Softmax) else "probabilities"


def as_float32(model: keras.Model) -> keras.Model:
    """The model itself if all its layers compute in float32, else a float32 copy with equal weights.

    TFLite refuses mixed precision, and ONNX Runtime refuses bfloat16.
    """
    if all(layer.dtype_policy.compute_dtype == "float32" for layer in model.layers):
        return model

    def in_float32(layer: keras.Layer) -> keras.Layer:
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    copy = keras.models.clone_model(model, clone_function=in_float32)
    copy.set_weights(model.get_weights())
    return copy
