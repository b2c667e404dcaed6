"""The tf_keras (Keras 2) twin of a Keras 3 model, and copying of weights between the two.

tensorflow-model-optimization supports only tf_keras models.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_resnet.networks.graph import allow_depth
from keras_resnet.support.extras import require

_CONVOLUTION = ("kernel_size", "strides", "padding", "data_format", "dilation_rate", "activation")
_POOLING = ("pool_size", "strides", "padding", "data_format")

#: Layers that exist in both libraries -> options that have the same meaning in both.
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "Activation": ("activation",),
    "Add": (),
    "AveragePooling2D": _POOLING,
    "BatchNormalization": ("axis", "momentum", "epsilon", "center", "scale", "synchronized"),
    "Concatenate": ("axis",),
    "Conv2D": (*_CONVOLUTION, "filters", "groups", "use_bias"),
    "Cropping2D": ("cropping", "data_format"),
    "Dense": ("units", "activation", "use_bias"),
    "DepthwiseConv2D": (*_CONVOLUTION, "depth_multiplier", "use_bias"),
    "Dropout": ("rate", "noise_shape", "seed"),
    "Flatten": ("data_format",),
    "GlobalAveragePooling2D": ("data_format", "keepdims"),
    "GlobalMaxPooling2D": ("data_format", "keepdims"),
    "GroupNormalization": ("groups", "axis", "epsilon", "center", "scale"),
    "MaxPooling2D": _POOLING,
    "Multiply": (),
    "Normalization": ("axis", "mean", "variance", "invert"),
    "Permute": ("dims",),
    "ReLU": ("max_value", "negative_slope", "threshold"),
    "Rescaling": ("scale", "offset"),
    "Reshape": ("target_shape",),
    "Softmax": ("axis",),
    "ZeroPadding2D": ("padding", "data_format"),
}

#: Options that a twin does not need; `renorm_momentum` only matters with `renorm`, which is
#: refused.
_DROPPED = {"name", "trainable", "dtype", "renorm_momentum"}

#: Activations that are the same in both libraries; `hard_sigmoid` differs.
_SAME_ACTIVATIONS = (
    *("elu", "exponential", "gelu", "linear", "mish", "relu", "selu", "sigmoid", "softmax"),
    *("softplus", "softsign", "tanh"),
)


class _UnequalError(Exception):
    """Raised if a layer has no equivalent in tf_keras; the message describes the layer."""


def to_tf_keras(model: keras.Model) -> Any:
    """Return a tf_keras model with the graph, names, weights and trainable flags of `model`.

    At inference, its outputs differ from those of `model` by at most 1e-5. It computes in float32,
    whatever the dtype policy of `model`, and shares no variables with it. Initializers are not
    copied. In training, its BatchNormalization uses the unbiased variance, unlike Keras 3.

    Args:
        model: a flat functional model, such as one from `keras_resnet.build`.

    Returns:
        A `tf_keras.Model` with the same structure of inputs and outputs.

    Raises:
        ValueError: If the model is not functional, or has layers without an equivalent in tf_keras.
        ImportError: If tf_keras is not installed.

    Examples:
        >>> twin = to_tf_keras(keras_resnet.ResNet20())
        >>> twin.output_shape
        (None, 10)
    """
    tf_keras = require("tf_keras")
    config = _functional_config(model)
    config = {**config, "layers": _twin_layers(model, config["layers"])}
    allow_depth(len(config["layers"]))
    twin = tf_keras.Model.from_config(config)
    # Setting the flag of the model sets those of all layers, so it comes first.
    twin.trainable = model.trainable
    trainable = {layer.name: layer.trainable for layer in model.layers}
    for layer in twin.layers:
        layer.trainable = trainable.get(layer.name, True)
    copy_to_twin(model, twin)
    return twin


def copy_to_twin(model: keras.Model, twin: Any) -> None:
    """Copy all weights of a Keras 3 model to its twin.

    Layers are matched by name, and the variables of a layer by their order. If the models do not
    match, nothing is copied.

    Args:
        model: a Keras 3 model, under any backend.
        twin: the result of `to_tf_keras` for this model or one with the same layers.

    Raises:
        ValueError: If a layer with weights is missing in one of the models, or shapes differ.
    """
    _copy(_pairs(model, twin))


def copy_from_twin(twin: Any, model: keras.Model) -> None:
    """Copy all weights of a twin to the Keras 3 model; the reverse of `copy_to_twin`.

    Args:
        twin: a result of `to_tf_keras`, if necessary after the wrappers of
            tensorflow-model-optimization were stripped.
        model: a Keras 3 model, under any backend.

    Raises:
        ValueError: If a layer with weights is missing in one of the models, or shapes differ.
    """
    _copy([(theirs, ours) for ours, theirs in _pairs(model, twin)])


def _pairs(model: keras.Model, twin: Any) -> list[tuple[Any, Any]]:
    """Return pairs of layers with weights of the model and its twin, by name."""
    ours, theirs = (
        {layer.name: layer for layer in one.layers if layer.weights} for one in (model, twin)
    )
    for have, other, where in ((ours, theirs, "the twin"), (theirs, ours, "the Keras 3 model")):
        if missing := [name for name in have if name not in other]:
            raise ValueError(
                f"Expected the same layers with weights in both models. Received: {missing[0]!r}, "
                f"which {where} lacks. Strip the wrappers of tensorflow-model-optimization first, "
                "if there are any"
            )
    for name in ours:
        shapes, others = (
            [tuple(weight.shape) for weight in layer.weights]
            for layer in (ours[name], theirs[name])
        )
        if shapes != others:
            raise ValueError(
                f"Expected weights of equal shapes in both models. Received: {name!r} with "
                f"{shapes} in the Keras 3 model and {others} in the twin"
            )
    return [(ours[name], theirs[name]) for name in ours]


def _copy(pairs: list[tuple[Any, Any]]) -> None:
    """Copy the weights of the first layer of every pair to the second."""
    for layer, target in pairs:
        # As NumPy arrays, since the frameworks may differ; neither accepts bfloat16 arrays.
        target.set_weights(
            [
                value.astype("float32") if value.dtype.name == "bfloat16" else value
                for value in map(np.asarray, layer.get_weights())
            ]
        )
        if hasattr(target, "finalize_state"):
            # Normalization computes with tensors that it derives from its weights.
            target.finalize_state()


def _functional_config(model: keras.Model) -> dict[str, Any]:
    try:
        config: dict[str, Any] = model.get_config()
    except (AttributeError, NotImplementedError):
        config = {}
    if not isinstance(model, keras.Model) or "input_layers" not in config:
        raise ValueError(
            "Expected a functional Keras 3 model, such as one from `keras_resnet.build`. "
            f"Received: {getattr(model, 'name', model)!r} ({type(model).__name__})"
        )
    return config


def _twin_layers(model: keras.Model, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Convert the serialized layers of Keras 3 to the format of tf_keras.

    Raises:
        ValueError: If layers have no equivalent in tf_keras; the message names them.
    """
    layers: list[dict[str, Any]] = []
    refused = []
    for entry in entries:
        try:
            class_name, config = _class_and_config(entry)
            nodes = [_node(entry["class_name"], node) for node in entry["inbound_nodes"]]
        except _UnequalError as error:
            refused.append(f"{entry['name']} ({error})")
            continue
        config = {**config, "name": entry["name"]}
        known = {"class_name": class_name, "config": config, "name": entry["name"]}
        layers.append({**known, "inbound_nodes": nodes})
    if refused:
        nested = {layer.name for layer in model.layers if isinstance(layer, keras.Model)}
        remedy = (
            ". Rebuild the model without nested models: build the inner model on a tensor of the "
            "outer one (`keras_resnet.build(..., input_tensor=...)`)"
        )
        raise ValueError(
            "Expected a network of layers with an equivalent in tf_keras. "
            f"Received: {', '.join(refused)}{remedy if nested else ''}"
        )
    return layers


def _class_and_config(entry: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return class name and config of the twin of a serialized layer."""
    name, module, config = entry["class_name"], str(entry["module"]), entry["config"]
    # Classes of the same name from other modules may differ.
    if module == "keras.layers" and name == "InputLayer":
        for option in ("sparse", "ragged", "optional"):
            if config.get(option):
                raise _UnequalError(f"InputLayer with {option}=True")
        # Half precision becomes float32.
        dtype = "float32" if "float" in config["dtype"] else config["dtype"]
        return name, {"batch_input_shape": config["batch_shape"], "dtype": dtype}
    if module == "keras.layers" and name in _OPTIONS:
        return name, _same_config(name, config)
    if module.startswith("keras.") and name == "Pad":
        if config["mode"] not in ("constant", "reflect", "symmetric"):
            raise _UnequalError(f"Pad with mode={config['mode']!r}")
        own = {"pad_width": config["pad_width"], "mode": config["mode"], "dtype": "float32"}
        return _pad_class(), own
    # The operation of `a + b` has the same name as the layer `Add`.
    raise _UnequalError(f"operation {name}" if ".ops." in module else name)


def _node(class_name: str, node: dict[str, Any]) -> Any:
    """Convert a serialized call to the format of tf_keras; only tensors are supported."""
    # Keras 3 saves `training=False` by default, which a call of the model overrides. Padding
    # without a value is padding with zeros.
    given = {
        key: value
        for key, value in node["kwargs"].items()
        if value is not None and not (key in ("training", "constant_values") and value == 0)
    }
    if given or len(node["args"]) != 1:
        arguments = ", ".join(given) or f"{len(node['args'])} positional arguments"
        raise _UnequalError(f"{class_name} called with {arguments}")
    tensors = node["args"][0]
    if isinstance(tensors, dict):
        return [tensors["config"]["keras_history"]]
    if len(tensors) == 1:
        # tf_keras does not distinguish a list of one tensor from the tensor itself.
        raise _UnequalError(f"{class_name} called with a list of one tensor")
    return [tensor["config"]["keras_history"] for tensor in tensors]


def _same_config(class_name: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return the config of the tf_keras layer of the same name.

    Raises:
        _UnequalError: If an option that is not in `_OPTIONS` is in use.
    """
    options = {option: config[option] for option in _OPTIONS[class_name]}
    others = [
        f"{key}={value!r}"
        for key, value in config.items()
        if key not in options and key not in _DROPPED and not key.endswith("_initializer")
        # All other options are off if they are None or False.
        if value is not None and value is not False
    ]
    if others:
        raise _UnequalError(f"{class_name} with {', '.join(others)}")
    if "activation" in options:
        activation = options["activation"]
        if activation == "silu":
            options["activation"] = "swish"
        elif activation not in _SAME_ACTIVATIONS:
            shown = activation.get("config") if isinstance(activation, dict) else activation
            raise _UnequalError(f"{class_name} with activation={shown!r}")
    return {**options, "dtype": "float32"}


@functools.cache
def _pad_class() -> str:
    """Return the registered name of a tf_keras padding layer, defined when it is first needed."""
    import tensorflow as tf

    tf_keras = require("tf_keras")
    layer_class: Any = tf_keras.layers.Layer

    @tf_keras.utils.register_keras_serializable(package="keras_resnet")
    class Pad(layer_class):
        """`tf.pad` with zeros or by reflection."""

        def __init__(self, pad_width: Any, mode: str, **keywords: Any) -> None:
            super().__init__(**keywords)
            self.pad_width = [list(sides) for sides in pad_width]
            self.mode = mode

        def call(self, inputs: Any) -> Any:
            return tf.pad(inputs, self.pad_width, self.mode)

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "pad_width": self.pad_width, "mode": self.mode}

        def get_prunable_weights(self) -> list[Any]:
            """Return no weights; tensorflow-model-optimization calls this for custom layers."""
            return []

    return str(tf_keras.utils.get_registered_name(Pad))
