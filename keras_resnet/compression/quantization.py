"""Quantization-aware training: a network that rounds like its int8 artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_resnet.compression.fusion import PASSING, activation_name, fused_groups
from keras_resnet.compression.layers import measuring, ranges
from keras_resnet.compression.rebuild import check_flat, check_skip, kernels, with_options

#: Kinds of layers whose outputs have a range of their own.
_COMPUTING = (
    *("Activation", "Add", "BatchNormalization", "CompressedConv2D", "CompressedDense"),
    *("Concatenate", "Conv2D", "Dense", "GlobalAveragePooling2D", "Multiply", "Normalization"),
    *("ReLU", "Rescaling", "Softmax"),
)

#: Activations with a known range, and all activations that int8 artifacts support.
_SHARES = ("sigmoid", "softmax")
_ACTIVATIONS = (None, "linear", "relu", *_SHARES)

_BATCH_SIZE = 8


def quantize_aware(
    model: keras.Model, images: np.ndarray, *, skip: Sequence[str] = (), momentum: float = 0.99
) -> keras.Model:
    """Return a copy of a network for quantization-aware training (Jacob et al. 2018).

    The network rounds like its int8 artifacts (arXiv:1712.05877). Kernels are rounded per output
    channel, which is equivalent before and after folding batch normalization. Activations are
    rounded where TFLite and ONNX Runtime round them, except after average pooling, where both
    artifacts round by at most half a step. The ranges of activations are initialized with `images`
    and then follow the training images. Train the network with a small learning rate, finish with
    `freeze_ranges`, then `export` or `strip` it.

    Args:
        model: a flat network with trained weights, plain, pruned or clustered; it is not changed.
        images: images to initialize the ranges, `(n, height, width, channels)`, RGB in [0, 255],
            prepared as for evaluation; a few dozen are enough.
        skip: names of layers that stay in float, including their outputs. Keep the same layers in
            float when you export the network.
        momentum: momentum of the ranges; see `ActivationRange`.

    Returns:
        The network, with layers of the same names, and ranges between them.

    Raises:
        ValueError: If a layer is not supported in int8, `skip` contains a name that is not a layer,
            or the images do not fit, for example because their pixels are in [0, 1].

    Examples:
        >>> aware = quantize_aware(model, images)
        >>> train(aware, "digits", "finetune", epochs=3)
        >>> train(freeze_ranges(aware), "digits", "finetune", epochs=1)
        >>> plain = strip(aware)
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
    """Fix the ranges and, by default, batch normalization of a network, in place.

    Then continue training for a short time, with exactly the ranges and statistics of the artifacts
    (Krishnamoorthi 2018, arXiv:1806.08342, section 3.2.1). Compile the network again first; `train`
    does so.

    Args:
        model: a network from `quantize_aware`.
        bn: whether to freeze batch normalization as well.

    Returns:
        `model` itself.

    Raises:
        ValueError: If the model has no ranges.
    """
    found = ranges(model)
    if not found:
        raise ValueError("Expected a network from `quantize_aware`. Received: one without ranges")
    for layer in found.values():
        layer.observing = False
    return freeze_bn(model) if bn else _forget_trace(model)


def freeze_bn(model: keras.Model) -> keras.Model:
    """Freeze batch normalization while ranges are still observed, in place.

    In further training, the ranges adapt to the statistics that are folded into kernels. Compile
    the network again before you train it further; `train` does so.

    Returns:
        `model` itself.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    return _forget_trace(model)


def _forget_trace(model: keras.Model) -> keras.Model:
    """Discard the traced training step, as Keras does not notice that layers have changed."""
    model.train_function = None
    return model


def _check_layers(model: keras.Model, skip: Sequence[str]) -> None:
    if ranges(model):
        raise ValueError("Expected a network without ranges. Received: one from `quantize_aware`")
    check_skip(skip, [layer.name for layer in model.layers], "layers")
    kinds = (*PASSING, *_COMPUTING)
    # The outputs of operations that are not layers, such as `x + y`, cannot be rounded.
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
        names = [f"{x.name} ({type(x).__name__})" for x in strange]
        names += [f"{x.name} ({activation_name(x)})" for x in wrong]
        raise ValueError(
            "Expected a network of layers that int8 supports: convolutions, dense layers, batch "
            "normalization, pooling, sums and products, ReLU, sigmoid and softmax. Received: "
            f"{', '.join(dict.fromkeys(names))}. Name these in `skip` to leave them in float"
        )


def _squashes(layer: keras.layers.Layer, model: keras.Model) -> bool:
    """Return whether the range of a layer is observed before its activation.

    This is so for a sigmoid or softmax, whose output range is known, and for the network's output.
    """
    last = layer.name in model.output_names and activation_name(layer) == "linear"
    return activation_name(layer) in _SHARES or last


def _places(model: keras.Model, skip: Sequence[str]) -> list[str]:
    """Return the names of the layers whose outputs are tensors of an int8 artifact."""
    names = []
    for name, group in fused_groups(model).items():
        layer = model.get_layer(name)
        # The output ranges of these are known.
        known = isinstance(layer, keras.layers.Softmax) or (
            type(layer) is keras.layers.Activation and activation_name(layer) in _SHARES
        )
        # A group with a skipped layer is skipped as a whole.
        if not known and not set(group) & set(skip):
            names.append(name)
    return names


def _start(result: keras.Model, images: np.ndarray) -> None:
    """Initialize the ranges with those of unrounded activations on `images`."""
    shape = (None, *result.input_shape[1:])
    known = zip(shape, images.shape, strict=False)
    if images.ndim != 4 or not len(images) or any(a not in (None, b) for a, b in known):
        raise ValueError(f"Expected images of shape {shape}. Received: {images.shape}")
    if images.max() <= 1:
        raise ValueError(
            "Expected images with pixels in [0, 255]. Received: pixels of at most "
            f"{images.max()}, which seem to be divided by 255. Multiply them by 255"
        )
    with measuring(ranges(result).values()):
        for start in range(0, len(images), _BATCH_SIZE):
            result(images[start : start + _BATCH_SIZE].astype(np.float32), training=False)
