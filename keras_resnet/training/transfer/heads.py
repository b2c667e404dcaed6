"""Networks for a new task: another head, another stem."""

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
    """Return the network with a new head; it shares all other layers and their weights with `model`.

    What follows the global pooling of `model` is left out. A network that ends with a feature map
    gets global average pooling, `"avg_pool"`. The model that comes back is not compiled.

    A compressed network stays so, but for the new layer, which is neither pruned nor clustered. In
    a quantization-aware one it is rounded, unless the old head was in float; its range starts with
    the first training batch, so that an untrained head puts out zeros before its activation.

    Args:
        model: a flat network of this package, with its head, `include_top=False` or both that and
            `pooling`.
        classes: width of the new layer `"predictions"`.
        task: `"classes"`: one class per image, softmax, or of `classes=1` a sigmoid: the
            probability of the second of two classes; `"labels"`: any number of labels per image,
            a sigmoid each; `"values"`: regression, no activation.
        names: of the classes, labels or values, in the order of the outputs; see
            `set_class_names`. Those of `model` do not stay.
        dropout: rate of dropout before the new layer; at least 0 and less than 1.
        name: of the new model; by default that of `model`.

    Returns:
        A functional model with the output `(batch, classes)`, float32 under every dtype policy.

    Raises:
        ValueError: If an argument has another value than these, or `model` has several outputs or
            is no flat network of this package.
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
        model: a network of this package, or a model with one inside. Where its images may have any
            size, there is nothing to check.

    Raises:
        ValueError: If it is no such model.
    """
    network = find_network(model)
    level, features = list(feature_extractor(network).output.items())[-1]
    height, width = features.shape[1:3]
    if min(side for side in (height, width, SMALL_FINAL_MAP) if side is not None) < SMALL_FINAL_MAP:
        remedy = "enlarge the images"
        if any(layer.name.startswith("pool1_") for layer in network.layers):
            remedy += (
                ", or give the network a CIFAR stem (`swap_stem`, or `stem='cifar'` of a "
                "`ResNetConfig`), which leaves four times more per side"
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
    """Return a network for small pictures: that of `model` with `stem="cifar"`, and its weights.

    The weights of the stem are new, as a kernel of another size cannot be taken over, nor the
    statistics of what it puts out: train the whole network, batch normalization included, before
    you use it; with `finetune`, that is `phases=[Phase("backbone", …)]` and `bn="training"`. All
    others are copies, by name of layer; the models share nothing. All layers of the new one are
    trainable. An `output_stride` is divided by what the stem no longer does, so that the same
    strides are dilation.

    Args:
        model: a flat network of this package that knows its config, with or without head.
        input_shape: `(height, width, channels)`; height and width may be None.
        name: of the new model; by default that of `model`.

    Returns:
        A functional model with the outputs of `model`; it keeps class names and the tag of the
        weights, but not the protocol of evaluation, which is for images of another size.

    Raises:
        ValueError: If `model` is no such network, knows no config or has the stem already; its head
            is no chain of layers; or the shape is impossible.
    """
    _check_flat(model)
    if compressed_layers(model) or ranges(model):
        raise ValueError(
            f"Expected a plain network. Received: {model.name!r}, a compressed one. Swap the stem "
            "first, or pass what `keras_resnet.compression.strip` makes of it"
        )
    info = get_info(model)
    if info.config is None:
        raise ValueError(
            "Expected a model that knows its config, as one from `keras_resnet.build` or "
            f"`keras_resnet.load_model` does. Received: {model.name!r}, which knows none"
        )
    config = ResNetConfig(**info.config)
    if config.stem == "cifar":
        raise ValueError(
            f"Expected a network with another stem than 'cifar'. Received: {model.name!r}, which "
            "has it already"
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
        f"The stem of {model.name!r} cannot be taken over by a 3x3 convolution: it is newly "
        "initialized. Train the network, its batch normalization included, before you use it.",
        stacklevel=2,
    )
    return result


def _check_flat(model: keras.Model) -> None:
    network = find_network(model)
    if network is not model:
        raise ValueError(
            "Expected a flat network. "
            f"Received: {model.name!r}, a model around one. Pass the model inside: "
            f"`model.get_layer({network.name!r})`"
        )
    if len(model.outputs) != 1:
        raise ValueError(
            f"Expected a model with one output. Received: {model.name!r} with {len(model.outputs)}"
        )


def _pooled(model: keras.Model) -> Any:
    """Return the globally pooled features `(batch, channels)`, rounded where those of `model` are."""
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
    """Options of new ranges in the head; None: what the head computes is not rounded."""
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
    # What has no layer, such as an operation of `keras.ops`, breaks the chain.
    last = [name for name in inputs if name in feature_layers][-1]
    chain = [last, *(name for name in inputs if name in layers)]
    ends = inputs.keys() - {source for names in inputs.values() for source in names}
    if ends != {chain[-1]} or any(inputs[b] != [a] for a, b in itertools.pairwise(chain)):
        raise ValueError(
            "Expected a head of layers that each take the output of the one before. "
            f"Received: {model.name!r} with the layers {chain[1:]} in its head"
        )
    for name in chain[1:]:
        config = {**layers[name].get_config(), "trainable": True}
        x = type(layers[name]).from_config(config)(x)
    return x


def _size(height: int | None, width: int | None) -> str:
    return f"{height or 'any'}x{width or 'any'}"
