"""Names of the input and the outputs of a model's artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_resnet.models.outputs import bare, output_kind

IMAGE = "image"
BATCH = "batch"
SIGNATURE = "serving_default"
#: The vector before the classifier: an output, and the signature of a SavedModel for it.
FEATURES = "features"


def named_outputs(values: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """A model's output or outputs by name, which `output_names` gives."""
    if isinstance(values, dict):
        return {name: values[name] for name in names}
    return dict(zip(names, keras.tree.flatten(values), strict=True))


def output_names(model: Any) -> tuple[str, ...]:
    """Return the names of the outputs of a model's artifacts.

    An only output is called what `output_kind` says of it; others have the keys or the names that
    they have in the model.

    Raises:
        ValueError: it is no Keras model with one image as its input, or puts out a constant.
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
    """Return the number of dimensions of each output in `names`, as `output_names` gives them."""
    if isinstance(model, keras.Sequential):
        return (len(model.output_shape),)
    return tuple(len(x.shape) for x in named_outputs(bare(model).output, tuple(names)).values())


def classifies(names: Sequence[str], ranks: Sequence[int]) -> bool:
    """Whether outputs are those of a classifier: one, `(batch, classes)`, and called so.

    A segmenter, too, may call its map of every pixel's classes `"probabilities"`.
    """
    return tuple(names) in (("probabilities",), ("logits",)) and ranks[0] == 2
