"""Inputs and outputs of artifacts that this package did not write.

Such files seldom describe their pixel format and output. Both are inferred from shapes, types and
metadata, in this order, and every decision is noted in a sentence.
"""

from __future__ import annotations

import os
import warnings
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from keras_resnet.images.labels import dataset_classes
from keras_resnet.images.protocol import DEFAULT_SIZE
from keras_resnet.models.info import ModelInfo
from keras_resnet.models.pixels import PIXEL_FORMATS, PixelFormat, find_pixel_format

#: `keras_resnet.export.Runner`, or another class with its attributes.
Runner: TypeAlias = Any

Shape = tuple[int | None, ...]

#: Numbers of channels of images: gray, RGB, RGB with transparency.
_CHANNELS = (1, 3, 4)

#: First class of networks with 1,001 classes, such as TF-Slim's.
_BACKGROUND = "background"


class Hint(NamedTuple):
    """The pixel format that a file asks for, and the reason to assume it."""

    pixels: PixelFormat
    reason: str


RAW = PIXEL_FORMATS["raw"]
FOR_INTEGERS = Hint(RAW, "as its input takes integers")


class Layout(NamedTuple):
    """The position of the channels of a rank-4 input, and the reason to assume it."""

    channels_first: bool
    reason: str

    @property
    def name(self) -> str:
        return "NCHW" if self.channels_first else "NHWC"


def find_layout(shape: Shape, *, default: str | None) -> Layout:
    """Return the layout of an input.

    Args:
        shape: `(batch, height, width, channels)` or `(batch, channels, height, width)`; `None`
            where any size is accepted.
        default: layout of ambiguous shapes, `"NHWC"` or `"NCHW"`; `None` to refuse them.

    Raises:
        ValueError: the shape is not one of images, or is ambiguous and there is no default.
    """
    if len(shape) != 4:
        raise ValueError(f"its input has the shape {shape}, which is no batch of images")
    first, last = shape[1] in _CHANNELS, shape[3] in _CHANNELS
    if first != last:
        return Layout(first, f"as its input has the shape {in_words(shape)}")
    if default is None:
        raise ValueError(
            f"its input has the shape {in_words(shape)}, which does not show the layout (NHWC or "
            "NCHW)"
        )
    return Layout(default == "NCHW", "as TensorFlow has it")


def in_words(shape: Shape) -> str:
    """Format a shape, with `?` for variable sides."""
    return f"({', '.join('?' if side is None else str(side) for side in shape)})"


def adapt(runner: Runner, path: str | os.PathLike[str], pixels: str | None) -> None:
    """Make a runner take images and return probabilities like the artifacts of this package.

    Args:
        runner: receives `pixels`, the kind and the width of a single output, names of classes, and
            `notes` about these decisions.
        path: path of the artifact, for messages.
        pixels: name of a pixel format, which overrides the file's.

    Raises:
        ValueError: the pixel format is unknown, or does not fit the input.
    """
    notes = _set_pixels(runner, path, pixels)
    if not runner.is_own and runner.layout is not None:
        notes.insert(0, f"Layout: {runner.layout.name}, {runner.layout.reason}.")
    if runner.is_cut:
        notes.append(_set_features(runner, path))
    elif not runner.is_own:
        notes += _set_output(runner, path)
        notes += _set_names(runner)
    runner.notes = tuple(notes)


def _set_pixels(runner: Runner, path: str | os.PathLike[str], asked: str | None) -> list[str]:
    hint = runner.hint
    if asked is not None:
        hint = Hint(find_pixel_format(asked, runner.input_shape[3]), "as was asked for")
    elif runner.is_own:
        return []
    elif hint is None and runner.is_keras:
        hint = Hint(RAW, "the default for Keras models, as the file does not say")
        warnings.warn(
            f"{path} does not say in which format it takes pixels, and has no layer that "
            "normalizes them. It gets raw ones, RGB in [0, 255]. If it was trained on others, pass "
            "`pixels`: unit, tf, imagenet or caffe",
            stacklevel=5,
        )
    elif hint is None:
        formats = "; ".join(f"{name}: {known.words}" for name, known in PIXEL_FORMATS.items())
        raise ValueError(
            f"Expected `pixels`, as {path} does not say in which format it takes them. "
            f"Received: none. Choose the format of its training ({formats}). Models of torchvision "
            "and most of timm take imagenet"
        )
    chosen = hint.pixels
    if runner.takes_integers and chosen is not RAW:
        raise ValueError(
            f"Expected `pixels='raw'` for {path}, whose input takes integers without a scale. "
            f"Received: {chosen.name}"
        )
    runner.pixels = chosen
    return [f"Pixels: {chosen.name} ({chosen.words}), {hint.reason}."]


def _set_output(runner: Runner, path: str | os.PathLike[str]) -> list[str]:
    """Name a single output `(n, classes)` by the kind of its values."""
    if runner.is_keras:  # The layers have shown the kind.
        return [f"Output: {', '.join(runner.outputs)}, as the layers of the model show."]
    if len(runner.outputs) != 1:
        return []
    values = _answers_to_noise(runner, path)
    if values.ndim == 4 and values.shape[1:].count(1) >= 2:
        runner.is_flattened, values = True, values.reshape(len(values), -1)
    if values.ndim != 2:
        return []
    # The shape of the output may be missing in the file.
    runner.ranks, runner.width = (2,), values.shape[1]
    name = runner.outputs[0]
    kind, reason = _kind_of(values, runner.output_range)
    runner.outputs = (kind,)
    return [f"Output: {kind} ({name!r}), {reason}."]


def _set_features(runner: Runner, path: str | os.PathLike[str]) -> str:
    """Name the input of the last dense layer `"features"`, `(n, channels)`."""
    name = runner.outputs[0]
    shape = _answers_to_noise(runner, path).shape
    runner.is_flattened = True
    runner.outputs, runner.ranks, runner.width = ("features",), (2,), int(np.prod(shape[1:]))
    return f"Output: features ({name!r}), what the last dense layer gets."


def _answers_to_noise(runner: Runner, path: str | os.PathLike[str]) -> np.ndarray:
    shape = [side or DEFAULT_SIZE for side in runner.input_shape[1:3]]
    noise = np.random.default_rng(0).integers(0, 256, (2, *shape, runner.input_shape[3] or 3))
    try:
        return runner.compute(noise.astype(np.float32))[runner.outputs[0]]
    except Exception as error:
        # Each runtime has errors of its own.
        raise ValueError(
            f"Expected a model that runs on images of shape {(*noise.shape[1:],)}. Received: "
            f"{path}: {error}"
        ) from error


def _kind_of(values: np.ndarray, limits: tuple[float, float] | None) -> tuple[str, str]:
    """Return the kind of a classifier's outputs `(n, classes)`, and the reason."""
    if values.shape[1] == 1:
        return "values", "as it is a single number"
    low, high = float(values.min()), float(values.max())
    if low >= 0 and np.allclose(values.sum(-1), 1, atol=1e-2):
        return "probabilities", "which sum to 1"
    if limits is not None and limits[0] >= 0 and 0.9 < limits[1] <= 1.01:
        return "probabilities", "as it is quantized to [0, 1]"
    if low >= 0 and high <= 1:
        return "probabilities", "one by one, as all are in [0, 1] but do not sum to 1"
    return "logits", "of which a softmax is taken, as they do not sum to 1"


def _set_names(runner: Runner) -> list[str]:
    """Keep the class names in the file; without any, name 1,000 or 1,001 classes as ImageNet's."""
    if not runner.is_classifier:
        return []
    if (labels := runner.info.class_names) is not None:
        if len(labels) == runner.width:
            return [f"Classes: {runner.width}, named by the labels in the file."]
        runner.info = ModelInfo()
        return [
            f"Classes: {runner.width}, by number, as the file has {len(labels)} labels, which "
            "cannot name them."
        ]
    if runner.width not in (1000, 1001):
        return [f"Classes: {runner.width}, by number, as nothing names them."]
    names, ids = dataset_classes("imagenet")
    assert ids is not None
    first = "" if runner.width == 1000 else f", with {_BACKGROUND} in front"
    if first:
        names, ids = (_BACKGROUND, *names), (_BACKGROUND, *ids)
    runner.info = ModelInfo(class_names=names, class_ids=ids)
    return [f"Classes: ImageNet's{first}, as there are {runner.width:,}."]
