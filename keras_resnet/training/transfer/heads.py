"""Networks for a new task: replacement of the head or the stem."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import keras

from keras_resnet.compression.layers import (
    RANGE_SUFFIX,
    ActivationRange,
    CompressedDense,
    compressed_layers,
    ranges,
)
from keras_resnet.models.info import get_info, set_class_names, set_info
from keras_resnet.networks.arguments import SMALL_FINAL_MAP, check_shape
from keras_resnet.networks.builder import build
from keras_resnet.networks.config import ResNetConfig
from keras_resnet.networks.features import feature_extractor
from keras_resnet.networks.graph import allow_depth, find_network, inputs_of, only
from keras_resnet.support.checks import check_choice, check_integer
from keras_resnet.training.transfer.freezing import split_levels

Task = Literal["classes", "labels", "values"]

_ACTIVATIONS = {"classes": "softmax", "labels": "sigmoid", "values": "linear"}
_POOLS = ("avg_pool", "max_pool")


def replace_head(
    model: keras.Model,
    classes: int,
    *,
    task: Task = "classes",
    names: Sequence[str] | None = None,
    dropout: float = 0.0,
    name: str | None = None,
) -> keras.Model:
    """Return a network with a new head that shares all other layers and weights with `model`.

    All layers after the global pooling of `model` are removed. A network that ends with a feature
    map gets global average pooling, `"avg_pool"`. The new model is not compiled.

    The other layers of a compressed network stay compressed. The new layer is neither pruned nor
    clustered, but rounded in a quantization-aware network, unless the old head was in float. Its
    range starts with the first training batch, so an untrained head has zeros before its
    activation.

    Args:
        model: a flat network of this package, with or without head and pooling.
        classes: number of outputs of the new layer `"predictions"`.
        task: `"classes"`: one class per image, with a softmax, or with `classes=1` a sigmoid for
            the probability of the second of two classes; `"labels"`: any number of labels per
            image, with a sigmoid for each; `"values"`: regression, without activation.
        names: names of the classes, labels or values, in the order of the outputs; see
            `set_class_names`. None: the new model has no names.
        dropout: rate of dropout before the new layer, in [0, 1).
        name: name of the new model; None: that of `model`.

    Returns:
        A functional model with output shape `(batch, classes)`, float32 under every dtype policy.

    Raises:
        ValueError: If an argument has an invalid value, `model` has several outputs, or it is not a
            flat network of this package.

    Examples:
        >>> backbone = keras_resnet.ResNet50(weights="imagenet")
        >>> model = replace_head(backbone, 2, names=["cat", "dog"])
        >>> model.output_shape
        (None, 2)
    """
    _check_flat(model)
    check_choice("task", task, get_args(Task))
    check_integer("classes", classes)
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise ValueError(
            f"Expected `dropout` to be 0 or more and less than 1. Received: dropout={dropout!r}"
        )
    x = _pooled(model)
    if dropout:
        x = keras.layers.Dropout(float(dropout), name="head_drop", dtype="float32")(x)
    options: dict[str, Any] = {
        "activation": "sigmoid" if classes == 1 and task == "classes" else _ACTIVATIONS[task],
        # As in `keras_resnet.build`.
        "kernel_initializer": keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),
        "name": "predictions",
        "dtype": "float32",
    }
    if (observed := _head_range(model)) is None:
        x = keras.layers.Dense(int(classes), **options)(x)
    else:
        x = CompressedDense(int(classes), rounding="channel", observed=observed, **options)(x)
    allow_depth(len(model.layers))
    result = keras.Model(only(model.input), x, name=name or model.name)
    other = None if task == "classes" else task
    set_info(
        result, dataclasses.replace(get_info(model), class_names=None, class_ids=None, task=other)
    )
    if names is not None:
        set_class_names(result, names)
    return result


def check_image_size(model: keras.Model) -> None:
    """Warn if the last feature map has fewer than 4 positions in height or width.

    Args:
        model: a network of this package, or a model that contains one. A size that may vary is not
            checked.

    Raises:
        ValueError: If the model contains no network of this package.
    """
    network = find_network(model)
    level, features = list(feature_extractor(network).output.items())[-1]
    height, width = features.shape[1:3]
    if min(side for side in (height, width, SMALL_FINAL_MAP) if side is not None) < SMALL_FINAL_MAP:
        remedy = "enlarge the images"
        if any(layer.name.startswith("pool1_") for layer in network.layers):
            remedy += (
                ", or give the network a CIFAR stem (`swap_stem`, or `stem='cifar'` of a "
                "`ResNetConfig`), with which there are four times more per side"
            )
        images = _size(*network.input_shape[1:3])
        warnings.warn(
            f"{level}, the last feature map, has only {_size(height, width)} positions for "
            f"{images} images, fewer than {SMALL_FINAL_MAP}x{SMALL_FINAL_MAP}, which costs "
            f"accuracy: {remedy}.",
            stacklevel=2,
        )


def swap_stem(
    model: keras.Model, input_shape: tuple[int | None, int | None, int], *, name: str | None = None
) -> keras.Model:
    """Return a copy of a network for small images, with `stem="cifar"`.

    The weights of the stem are newly initialized, as its kernels have another size. All other
    weights are copies, by layer name; the two models share nothing. Train the whole network,
    including batch normalization, before you use it, for example by `finetune` with
    `phases=[Phase("backbone", …)]` and `bn="training"`. All layers of the new network are
    trainable. An `output_stride` is divided by the strides that the stem loses, so that the same
    stages are dilated.

    Args:
        model: a flat network of this package that knows its config, with or without head.
        input_shape: `(height, width, channels)`; height and width may be None.
        name: name of the new model; None: that of `model`.

    Returns:
        A functional model with the outputs of `model`. It keeps the class names and the tag of the
        weights, but not the evaluation protocol, which is for images of another size.

    Raises:
        ValueError: If `model` is not such a network or already has this stem, its head is not a
            chain of layers, or the shape is impossible.
    """
    _check_flat(model)
    if compressed_layers(model) or ranges(model):
        raise ValueError(
            f"Expected a plain network. Received: {model.name!r}, a compressed one. Swap the stem "
            "first, or pass the result of `keras_resnet.compression.strip`"
        )
    info = get_info(model)
    if info.config is None:
        raise ValueError(
            "Expected a model that knows its config, such as one from `keras_resnet.build` or "
            f"`keras_resnet.load_model`. Received: {model.name!r}, which has no config"
        )
    config = ResNetConfig(**info.config)
    if config.stem == "cifar":
        raise ValueError(
            f"Expected a network with a stem other than 'cifar'. Received: {model.name!r}, which "
            "already has this stem"
        )
    check_shape(input_shape)
    stride = config.output_stride
    changed = config.replace(
        stem="cifar", output_stride=None if stride is None else stride // config.stem_strides
    )
    levels = split_levels(model)
    backbone = build(
        changed,
        include_top=False,
        input_shape=input_shape,
        include_preprocessing=any(layer.name == "normalization" for layer in levels["stem"]),
        dtype=model.get_layer("conv2_block1_1_conv").dtype_policy,
    )
    outputs = _copied_head(model, backbone.output)
    result = keras.Model(backbone.input, outputs, name=name or model.name)
    stem = {layer.name for layer in split_levels(result)["stem"]}
    for layer in result.layers:
        if layer.weights and layer.name not in stem:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    known = dataclasses.replace(info, config=dataclasses.asdict(changed), protocol=None)
    set_info(result, known)
    warnings.warn(
        f"The weights of the stem of {model.name!r} do not fit a 3x3 convolution: the new stem is "
        "newly initialized. Train the network, including its batch normalization, before you use "
        "it.",
        stacklevel=2,
    )
    return result


def _check_flat(model: keras.Model) -> None:
    network = find_network(model)
    if network is not model:
        raise ValueError(
            "Expected a flat network. "
            f"Received: {model.name!r}, which contains one as a layer. Pass the inner model: "
            f"`model.get_layer({network.name!r})`"
        )
    if len(model.outputs) != 1:
        raise ValueError(
            f"Expected a model with one output. Received: {model.name!r} with {len(model.outputs)}"
        )


def _pooled(model: keras.Model) -> Any:
    """Return the pooled features `(batch, channels)`, rounded if the head of `model` is."""
    head = {layer.name: layer for layer in split_levels(model)["head"]}
    for name in _POOLS:
        if name in head:
            return head.get(f"{name}{RANGE_SUFFIX}", head[name]).output
    x = model.outputs[0]
    if len(x.shape) != 4:
        raise ValueError(
            "Expected a model that ends with a feature map, or has a layer 'avg_pool' or "
            f"'max_pool'. Received: {model.name!r} with the output {tuple(x.shape)}"
        )
    x = keras.layers.GlobalAveragePooling2D(
        data_format="channels_last", name="avg_pool", dtype="float32"
    )(x)
    if (observed := _head_range(model)) is None:
        return x
    return ActivationRange(name=f"avg_pool{RANGE_SUFFIX}", dtype="float32", **observed)(x)


def _head_range(model: keras.Model) -> dict[str, Any] | None:
    """Return the options of new ranges in the head; None if the head is not rounded."""
    known = list(ranges(model).values())
    in_float = any(
        isinstance(layer, keras.layers.Dense) and getattr(layer, "rounding", None) is None
        for layer in split_levels(model)["head"]
    )
    return {"momentum": known[0].momentum} if known and not in_float else None


def _copied_head(model: keras.Model, x: Any) -> Any:
    """Apply copies of the layers of the head, with new weights, to `x`."""
    inputs = inputs_of(model)
    *_, before, head = split_levels(model).values()
    layers = {layer.name: layer for layer in head}
    feature_layers = {layer.name for layer in before}
    # Operations that are not layers, such as those of `keras.ops`, break the chain.
    last = [name for name in inputs if name in feature_layers][-1]
    chain = [last, *(name for name in inputs if name in layers)]
    ends = inputs.keys() - {source for names in inputs.values() for source in names}
    if ends != {chain[-1]} or any(inputs[b] != [a] for a, b in itertools.pairwise(chain)):
        raise ValueError(
            "Expected a head whose layers form a chain. "
            f"Received: {model.name!r} with the layers {chain[1:]} in its head"
        )
    for name in chain[1:]:
        config = {**layers[name].get_config(), "trainable": True}
        x = type(layers[name]).from_config(config)(x)
    return x


def _size(height: int | None, width: int | None) -> str:
    return f"{height or 'any'}x{width or 'any'}"
