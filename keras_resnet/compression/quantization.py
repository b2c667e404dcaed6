"""Quantization-aware training: a network that computes as its int8 artifacts will."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_resnet.compression.fusion import PASSING, activation_name, fused_groups
from keras_resnet.compression.layers import measuring, ranges
from keras_resnet.compression.rebuild import check_flat, check_skip, kernels, with_options

#: What has a range of its own.
_COMPUTING = (
    *("Activation", "Add", "BatchNormalization", "CompressedConv2D", "CompressedDense"),
    *("Concatenate", "Conv2D", "Dense", "GlobalAveragePooling2D", "Multiply", "Normalization"),
    *("ReLU", "Rescaling", "Softmax"),
)

#: Activations with a known range, and all that have an int8 form.
_SHARES = ("sigmoid", "softmax")
_ACTIVATIONS = (None, "linear", "relu", *_SHARES)

_BATCH_SIZE = 8


def quantize_aware(
    model: keras.Model, images: np.ndarray, *, skip: Sequence[str] = (), momentum: float = 0.99
) -> keras.Model:
    """Make a network that learns to be right in int8 (Jacob et al. 2018, arXiv:1712.05877).

    Kernels are rounded per output channel, which is the same before and after batch normalization
    is folded into them; activations are rounded where TFLite and ONNX Runtime round them (but for
    what average pooling puts out, which both round, by half a step at most, and this does not),
    between ends that are those on `images` at first and follow the training images. Train it as any
    other network, at a small learning rate, and end with `freeze_ranges`; then export it, or
    `strip` it.

    Args:
        model: a flat network with trained weights, plain, pruned or clustered; it stays as it is.
        images: to start the ranges from, `(n, height, width, channels)`, RGB in [0, 255]; some
            dozens, as at evaluation.
        skip: names of layers that are neither rounded nor have their outputs rounded; keep the same
            ones in float at export.
        momentum: of the ranges, see `ActivationRange`.

    Returns:
        The network: same layers by the same names, and ranges between them.

    Raises:
        ValueError: If a layer has no int8 form, `skip` names none, or the images do not fit, such
            as those whose pixels were divided by 255.
    """
    check_flat(model)
    _check_layers(model, skip)
    places = _places(model, skip)
    options: dict[str, dict[str, Any]] = {}
    for layer in kernels(model):
        if layer.name not in skip:
            shared = getattr(layer, "clusters", 0)
            # A step for each channel would make other integers of the same values.
            rounding = "tensor" if shared else "channel"
            observed = {"momentum": momentum} if _squashes(layer, model) else None
            options[layer.name] = {"rounding": rounding, "observed": observed}
    behind = [name for name in places if not options.get(name, {}).get("observed")]
    result = with_options(model, options, {name: {"momentum": momentum} for name in behind})
    _start(result, np.asarray(images))
    return result


def freeze_ranges(model: keras.Model, *, bn: bool = True) -> keras.Model:
    """End the observation of ranges and, unless told otherwise, batch normalization; in place.

    Compile the network again before you train it on. The last part of training is at the very
    numbers that the artifacts have (Krishnamoorthi 2018, arXiv:1806.08342, section 3.2.1).

    Raises:
        ValueError: If the model has no ranges.
    """
    found = ranges(model)
    if not found:
        raise ValueError("Expected a network from `quantize_aware`. Received: one without ranges")
    for layer in found.values():
        layer.observing = False
    return freeze_bn(model) if bn else _to_be_traced(model)


def freeze_bn(model: keras.Model) -> keras.Model:
    """End the training of batch normalization, while ranges are still observed; in place.

    Compile the network again before you train it on. Between the two, ranges settle for the very
    statistics that are folded into kernels.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    return _to_be_traced(model)


def _to_be_traced(model: keras.Model) -> keras.Model:
    """Let no step go on as it was traced before: Keras would not notice what has changed."""
    model.train_function = None
    return model


def _check_layers(model: keras.Model, skip: Sequence[str]) -> None:
    if ranges(model):
        raise ValueError("Expected a network without ranges. Received: one from `quantize_aware`")
    check_skip(skip, [layer.name for layer in model.layers], "layers")
    kinds = (*PASSING, *_COMPUTING)
    # Operations without a layer, such as that of `x + y`, have no output that could be rounded.
    strange = [
        x
        for x in model.operations
        if type(x).__name__ not in (kinds if isinstance(x, keras.Layer) else PASSING)
        and x.name not in skip
    ]
    wrong = [
        x for x in model.layers if activation_name(x) not in _ACTIVATIONS and x.name not in skip
    ]
    if strange or wrong:
        what = [f"{x.name} ({type(x).__name__})" for x in strange]
        what += [f"{x.name} ({activation_name(x)})" for x in wrong]
        raise ValueError(
            "Expected a network of layers with an int8 form: convolutions, dense layers, batch "
            "normalization, pooling, sums and products, ReLU, sigmoid and softmax. Received: "
            f"{', '.join(dict.fromkeys(what))}. Name these in `skip` to leave them in float"
        )


def _squashes(layer: keras.layers.Layer, model: keras.Model) -> bool:
    """Return whether the range is observed before the layer's activation.

    What a sigmoid or softmax puts out is known, and what the network does counts as it is.
    """
    last = layer.name in model.output_names and activation_name(layer) == "linear"
    return activation_name(layer) in _SHARES or last


def _places(model: keras.Model, skip: Sequence[str]) -> list[str]:
    """Return the layers whose outputs are tensors of an int8 artifact."""
    names = []
    for name, group in fused_groups(model).items():
        layer = model.get_layer(name)
        # What these put out is known.
        known = isinstance(layer, keras.layers.Softmax) or (
            type(layer) is keras.layers.Activation and activation_name(layer) in _SHARES
        )
        # An operator is left out as a whole.
        if not known and not set(group) & set(skip):
            names.append(name)
    return names


def _start(result: keras.Model, images: np.ndarray) -> None:
    """Set the ranges to those of the activations before any is rounded."""
    shape = (None, *result.input_shape[1:])
    known = zip(shape, images.shape, strict=False)
    if images.ndim != 4 or not len(images) or any(a not in (None, b) for a, b in known):
        raise ValueError(f"Expected images of shape {shape}. Received: {images.shape}")
    if images.max() <= 1:
        raise ValueError(
            "Expected images with pixels in [0, 255]. Received: pixels of at most "
            f"{images.max()}, which were divided by 255, as it seems"
        )
    with measuring(ranges(result).values()):
        for start in range(0, len(images), _BATCH_SIZE):
            result(images[start : start + _BATCH_SIZE].astype(np.float32), training=False)
