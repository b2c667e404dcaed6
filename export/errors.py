"""Search for the layers whose quantization to int8 changes a network's outputs most."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet.compression.fusion import fused_groups
from keras_resnet.export.images import image_array
from keras_resnet.export.model import ExportedModel
from keras_resnet.export.outputs import named_outputs
from keras_resnet.export.tracing import leaf_layers, with_calls
from keras_resnet.models.outputs import last_operation

_SQUASHING = (keras.activations.softmax, keras.activations.sigmoid)

#: Few enough for the activations of a large network to stay small.
_BATCH_SIZE = 16


def layer_errors(
    exported: ExportedModel, images: Iterable[Any] | np.ndarray, largest: int = 127
) -> dict[str, float]:
    """Measure how much int8 in each layer alone changes the network's outputs.

    One layer at a time is quantized: its weights are rounded per channel, and its output is rounded
    with a single scale. All other layers compute in float. Comparing the activations of a float and
    an int8 network instead would show where errors arrive, which is in every layer after the one
    that causes them. The network runs once per layer.

    Args:
        exported: model with calibration images or learned ranges. Layers in its option `keep_float`
            are skipped.
        images: images to measure the change on, `(n, height, width, channels)`, uint8 or float, RGB
            in [0, 255].
        largest: largest integer of a quantized weight.

    Returns:
        Error of each group of layers that are computed at once (convolution, normalization and
        activation), by the name of its first layer, largest error first. The error is the root mean
        square of the change of the outputs before the softmax, divided by their standard deviation.

    Raises:
        ValueError: `images` do not fit the model.
    """
    batch = image_array(images, exported.model.input_shape, "images")
    observed: dict[str, tuple[float, float]] = {}
    learned = exported.learned or {}
    fake_quant = tf.quantization.fake_quant_with_min_max_args
    rounded: list[str] = []

    def watched(layer: keras.Layer) -> Callable[..., Any]:
        call = layer.call

        def compute(*arguments: Any, **keywords: Any) -> Any:
            value = call(*arguments, **keywords)
            if layer.name not in groups or not tf.is_tensor(value):
                return value
            if rounded:
                if layer.name not in rounded or layer.name not in ranges:
                    return value
                low, high = ranges[layer.name]
                return fake_quant(value, min(low, 0.0), max(high, 1e-6))
            low, high = observed.get(layer.name, (0.0, 0.0))
            low = min(low, float(tf.reduce_min(value)))
            observed[layer.name] = (low, max(high, float(tf.reduce_max(value))))
            return value

        return compute

    def outputs() -> list[np.ndarray]:
        named = named_outputs(exported.model(batch, training=False), exported.outputs)
        return [np.asarray(value, np.float64) for value in named.values()]

    groups = {group[-1]: group for group in _groups(exported.model)}
    with _without_softmax(exported.model), with_calls(exported.model, watched):
        calibration: Any = [] if exported.calibration is None else exported.calibration
        for start in range(0, len(calibration), _BATCH_SIZE):
            exported.model(calibration[start : start + _BATCH_SIZE], training=False)
        ranges = {**observed, **learned}
        expected, errors = outputs(), {}
        for last, group in groups.items():
            rounded[:] = [last]
            if set(group) & set(exported.options.keep_float):
                continue
            with _rounded_kernels(exported.model, group, largest):
                received = outputs()
            ratios = [
                np.mean((have - want) ** 2) / max(float(np.var(want)), 1e-12)
                for have, want in zip(received, expected, strict=True)
            ]
            errors[group[0]] = float(np.sqrt(np.mean(ratios)))
    return dict(sorted(errors.items(), key=lambda item: -item[1]))


def _groups(model: keras.Model) -> Iterator[tuple[str, ...]]:
    """Yield the groups of layers that are computed at once, nested models included."""
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs, model.outputs)
    nested = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    names = {layer.name for layer in nested}
    # A subclassed model has no graph to find groups in, and `fused_groups` refuses a layer that is
    # called on its own output.
    groups: dict[str, tuple[str, ...]] = {layer.name: (layer.name,) for layer in model.layers}
    if hasattr(model, "operations"):
        with contextlib.suppress(ValueError):
            groups = dict(fused_groups(model))
    yield from (group for last, group in groups.items() if last not in names)
    for inner in nested:
        yield from _groups(inner)


def _first(x: Any, **_: Any) -> Any:
    return x


@contextlib.contextmanager
def _without_softmax(model: keras.Model) -> Iterator[None]:
    """Skip a final softmax or sigmoid within the context: they would hide errors."""
    last = last_operation(model)
    if isinstance(last, keras.layers.Softmax):
        with with_calls(model, lambda layer: _first if layer is last else layer.call):
            yield
    elif getattr(last, "activation", None) in _SQUASHING:
        activation, last.activation = last.activation, keras.activations.linear
        try:
            yield
        finally:
            last.activation = activation
    else:
        yield


@contextlib.contextmanager
def _rounded_kernels(model: keras.Model, names: Iterable[str], largest: int) -> Iterator[None]:
    """Round the kernels of the named layers per output channel within the context."""
    before = [
        (kernel, np.array(kernel), isinstance(layer, keras.layers.DepthwiseConv2D))
        for layer in leaf_layers(model)
        for kernel in layer.weights
        if layer.name in names and len(kernel.shape) > 1
    ]
    try:
        for kernel, values, depthwise in before:
            # Folding a normalization into the kernel would scale whole channels: no difference.
            axes = tuple(range(values.ndim - (2 if depthwise else 1)))
            scale = np.abs(values).max(axis=axes, keepdims=True) / largest
            kernel.assign(np.round(values / np.where(scale == 0, 1, scale)) * scale)
        yield
    finally:
        for kernel, values, _ in before:
            kernel.assign(values)
