"""Feature maps C2, C3, … and pooled features of a network, for detection, segmentation, search."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import keras

from keras_resnet.models.info import get_info, set_info
from keras_resnet.networks.graph import only
from keras_resnet.networks.names import place_of


def feature_extractor(model: keras.Model, levels: Sequence[str] | None = None) -> keras.Model:
    """Return a model with the feature maps of `model` as outputs.

    It shares layers and weights with `model`, and keeps its evaluation protocol, also in files.

    C2 is the output of stage conv2_x, and so on. An ImageNet network has C2 to C5, with strides 4,
    8, 16 and 32 (or less, see `output_stride` of `ResNetConfig`); a CIFAR network has C2 to C4,
    with strides 1, 2 and 4. In a pre-activation network, the last level is the input of the head,
    after normalization and ReLU; the other levels are sums without normalization and ReLU.

    Args:
        model: a network of this package, with or without its head, not inside of another model.
        levels: names of the feature maps, such as `("C3", "C5")`; all by default.

    Returns:
        A model with the input of `model` and a dict of outputs by level, each
        `(batch, height, width, channels)`.

    Raises:
        ValueError: the model has no such level.

    Examples:
        >>> model = keras_resnet.create_model("resnet20")
        >>> keras_resnet.feature_extractor(model, ("C3", "C4")).output["C4"].shape
        (None, 8, 8, 64)
    """
    outputs = {level: layer.output for level, layer in level_layers(model).items()}
    if not outputs:
        nested = [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
        inner = f" Pass the model inside: `model.get_layer({nested[0]!r})`" if nested else ""
        raise ValueError(
            "Expected a model with layers named as in `keras_resnet.build`. "
            f"Received: {model.name!r} without such layers.{inner}"
        )
    wanted = list(outputs) if levels is None else list(levels)
    unknown = [level for level in wanted if level not in outputs]
    if unknown or not wanted or isinstance(levels, str):
        raise ValueError(
            f"Expected `levels` to be some of {tuple(outputs)}. Received: levels={levels!r}"
        )
    maps = {level: outputs[level] for level in wanted}
    return _without_head(model, maps, "features")


def pooled(model: keras.Model, level: str = "avg") -> keras.Model:
    """Return a model with globally pooled features of `model` as its output.

    It shares layers and weights with `model`, and keeps its evaluation protocol.

    Args:
        model: a network of this package, with or without its head, not inside of another model; for
            level `"avg"` also any other model that ends with a dense layer.
        level: `"avg"` for the input of the classifier (in a network with `pooling="max"` the
            maximum, not the average), or a level of `feature_extractor`, which is averaged.

    Returns:
        A model with the input of `model` and the output `(batch, channels)`, float32.

    Raises:
        ValueError: the model has no such level.
    """
    pools = keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D
    names = ("avg_pool", "max_pool")
    head = next((x for x in model.layers if x.name in names and isinstance(x, pools)), None)
    if level == "avg" and head is not None:
        return _without_head(model, head.output, "avg")
    if level == "avg" and not level_layers(model) and (vectors := _dense_input(model)) is not None:
        return _without_head(model, vectors, "avg")
    maps = feature_extractor(model).output
    if level != "avg" and level not in maps:
        raise ValueError(
            f"Expected `level` to be 'avg' or one of {tuple(maps)}. Received: {level!r}"
        )
    chosen = maps[list(maps)[-1] if level == "avg" else level]
    average = keras.layers.GlobalAveragePooling2D(
        data_format="channels_last", dtype="float32", name=f"{level}_vector"
    )
    return _without_head(model, average(chosen), level)


def _without_head(model: keras.Model, outputs: Any, suffix: str) -> keras.Model:
    """Return the model up to `outputs`, with its information except for classes and task."""
    result = keras.Model(only(model.inputs), outputs, name=f"{model.name}_{suffix}")
    info = get_info(model)
    set_info(result, dataclasses.replace(info, class_names=None, class_ids=None, task=None))
    return result


def _dense_input(model: keras.Model) -> Any:
    """Return the input `(batch, channels)` of the last dense layer; `None` if there is none."""
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    vectors = dense[-1].input if dense else None
    return vectors if vectors is not None and len(vectors.shape) == 2 else None


def level_layers(model: keras.Model) -> dict[str, keras.Layer]:
    """Return the layer whose output is the feature map of each level; empty for other models."""
    stages: dict[int, dict[int, list[keras.Layer]]] = {}
    for layer in model.layers:
        if place := place_of(layer.name):
            stages.setdefault(place.stage, {}).setdefault(place.block, []).append(layer)
    # In `preact_layout="unit_norm_stride_last"` the stem has a bias, and the last block of a stage
    # halves the resolution; the level of that stage is the input of this block.
    stride_last = any(
        re.fullmatch(r"conv1_(\d_)?conv", layer.name) and layer.use_bias for layer in model.layers
    )
    found = {}
    for stage, blocks in sorted(stages.items()):
        last = max(blocks) - (stride_last and stage < max(stages))
        found[f"C{stage}"] = blocks[last][-1]
    if stages and any(layer.name == "post_relu" for layer in model.layers):
        found[f"C{max(stages)}"] = model.get_layer("post_relu")
    return found
