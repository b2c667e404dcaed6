"""Groups of layers that become a single operator in an int8 artifact."""

from __future__ import annotations

from typing import Any

import keras

from keras_resnet.networks.graph import inputs_of

#: Kinds of layers that only pass activations on: their output has the range of their input, which
#: TFLite requires.
PASSING = (
    *("AveragePooling2D", "Cropping2D", "Dropout", "Flatten", "GlobalMaxPooling2D", "InputLayer"),
    *("MaxPooling2D", "Pad", "Permute", "Reshape", "ZeroPadding2D"),
)

_RELUS = (keras.layers.Activation, keras.layers.ReLU)


def activation_name(layer: Any) -> str | None:
    """Return the name of a layer's activation; None if layers of its kind have none."""
    if isinstance(layer, keras.layers.ReLU):
        other = layer.negative_slope or layer.threshold or layer.max_value is not None
        return "another ReLU" if other else "relu"
    activation = getattr(layer, "activation", None)
    if activation is None:
        return "linear" if hasattr(layer, "activation") else None
    return getattr(activation, "__name__", str(activation))


def fused_groups(model: keras.Model) -> dict[str, tuple[str, ...]]:
    """Return the groups of layers that become a single operator.

    For example a convolution, its batch normalization and its ReLU, or a sum and its ReLU. Layers
    that only pass activations on are in no group.

    Args:
        model: a flat functional model.

    Returns:
        Name of the last layer -> the names of all layers of the group, in order.
    """
    inputs = inputs_of(model)
    users: dict[str, list[str]] = {}
    for name, before in inputs.items():
        for earlier in before:
            users.setdefault(earlier, []).append(name)
    layers = {layer.name: layer for layer in model.layers}

    def follower(name: str) -> str | None:
        following = users.get(name, [])
        if len(following) != 1 or name in model.output_names or following[0] not in layers:
            return None
        layer, after = layers[name], layers[following[0]]
        if isinstance(after, keras.layers.BatchNormalization):
            is_conv = isinstance(layer, keras.layers.Conv2D)
            return after.name if is_conv and activation_name(layer) == "linear" else None
        is_relu = activation_name(after) == "relu" and isinstance(after, _RELUS)
        return after.name if is_relu and type(layer).__name__ not in PASSING else None

    groups: dict[str, tuple[str, ...]] = {}
    open_: dict[str, tuple[str, ...]] = {}
    for name in inputs:
        if name not in layers or type(layers[name]).__name__ in PASSING:
            continue
        group = (*open_.pop(name, ()), name)
        after = follower(name)
        if after is None:
            groups[name] = group
        else:
            open_[after] = group
    return groups
