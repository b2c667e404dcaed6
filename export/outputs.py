"""Names of the inputs and outputs of artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_resnet.models.outputs import bare, output_kind

IMAGE = "image"
BATCH = "batch"
SIGNATURE = "serving_default"
#: Name of the features before the classifier: an output, and a signature of SavedModels.
FEATURES = "features"


def named_outputs(values: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the output or outputs of a model by the names from `output_names`."""
    if isinstance(values, dict):
        return {name: values[name] for name in names}
    return dict(zip(names, keras.tree.flatten(values), strict=True))


def output_names(model: Any) -> tuple[str, ...]:
    """Return the names of the outputs of a model's artifacts.

    The output of a classifier is named by its kind, which `output_kind` returns. Other outputs have
    their keys or names in the model.

    Raises:
        ValueError: `model` is not a Keras model with one image as its input, or one of its outputs
            does not depend on the input.
    """
    shape = getattr(model, "input_shape", None)
    if not isinstance(model, keras.Model) or not isinstance(shape, tuple) or len(shape) != 4:
        raise ValueError(
            "Expected a Keras model with one input (batch, height, width, channels). "
            f"Received: {type(model).__name__} with input {shape}"
        )
    kind = output_kind(model)
    if kind is not None:
        return (kind,)
    return tuple(model.output if isinstance(model.output, dict) else model.output_names)


def output_ranks(model: keras.Model, names: Sequence[str]) -> tuple[int, ...]:
    """Return the number of dimensions of each output; `names` are from `output_names`."""
    if isinstance(model, keras.Sequential):
        return (len(model.output_shape),)
    return tuple(len(x.shape) for x in named_outputs(bare(model).output, tuple(names)).values())


def classifies(names: Sequence[str], ranks: Sequence[int]) -> bool:
    """Return whether outputs are a classifier's: probabilities or logits `(batch, classes)`.

    The name alone does not tell: a segmenter may call the classes of its pixels `"probabilities"`.
    """
    return tuple(names) in (("probabilities",), ("logits",)) and ranks[0] == 2
