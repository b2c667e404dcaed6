"""Feature maps C2, C3, … of a network, for detectors, segmenters and the like."""

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
    """The model up to its feature maps; it shares layers and weights with `model`.

    It also takes over how images are prepared for `model`; saved and exported, it keeps that.

    C2 is what the stage conv2_x puts out at its own resolution, and so on: strides 4, 8, 16 and 32
    of an ImageNet network (less where `output_stride` says so), C2 to C4 with strides 1, 2 and 4 of
    a CIFAR network. In a pre-activation network the last level is what the head sees, after
    normalisation and ReLU; the others are sums, before any.

    Args:
        model: a flat network of this package: fresh, fine-tuned or reloaded, with or without head.
        levels: the names of the feature maps, such as `("C3", "C5")`; by default all.

    Returns:
        A model with the same input and a dict of outputs `(batch, height, width, channels)` by
        level.

    Raises:
        ValueError: the model has no such level.
    """
    outputs = {level: layer.output for level, layer in level_layers(model).items()}
    if not outputs:
        nested = [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
        inner = f" Pass the model inside: `model.get_layer({nested[0]!r})`" if nested else ""
        raise ValueError(
            "Expected a model with layers named as in `keras_resnet.build`. "
            f"Received: {model.name!r} without any.{inner}"
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
    """The model up to the average of a feature map over all places; it shares weights with `model`.

    Of a network with `pooling="max"`, `"avg"` is the maximum, as that is what its classifier sees;
    of a model of other origin, what its last dense layer gets.

    Args:
        model: a flat network of this package: fresh, fine-tuned or reloaded, with or without head;
            with `"avg"`, any classifier that ends with a dense layer.
        level: `"avg"` for what the classifier sees, or a level of `feature_extractor`.

    Returns:
        A model with the same input and the output `(batch, channels)`, float32.

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
    """The model up to some tensors; it knows how images are prepared, but no classes."""
    result = keras.Model(only(model.inputs), outputs, name=f"{model.name}_{suffix}")
    info = get_info(model)
    set_info(result, dataclasses.replace(info, class_names=None, class_ids=None, task=None))
    return result


def _dense_input(model: keras.Model) -> Any:
    """Return the input of the last dense layer, `(batch, channels)`; None if there is none."""
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    vectors = dense[-1].input if dense else None
    return vectors if vectors is not None and len(vectors.shape) == 2 else None


def level_layers(model: keras.Model) -> dict[str, keras.Layer]:
    """The layer that puts out the feature map of every level of a flat network."""
    stages: dict[int, dict[int, list[keras.Layer]]] = {}
    for layer in model.layers:
        if place := place_of(layer.name):
            stages.setdefault(place.stage, {}).setdefault(place.block, []).append(layer)
    # TF-Slim's layout has a bias in the stem, and the stride of a stage in the last block of the
    # one before it, so that a level is what goes into that block.
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
