"""What other packages call the layers of our networks: one map per layout, from our names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

import keras

Layout = Literal["torchvision", "timm_resnetv2", "transformers"]


def checkpoint_names(model: keras.Model, layout: Layout) -> dict[str, str]:
    """The prefix of every weighted layer's keys in a checkpoint.

    Args:
        model: a network of this package.
        layout: `"torchvision"` (its ResNets and timm's `resnet*`, with C stem, D shortcut and
            squeeze-and-excitation), `"timm_resnetv2"`, or `"transformers"` (its `ResNet`).

    Returns:
        Our layer name -> prefix, such as `conv2_block1_1_conv` -> `layer1.0.conv1`.

    Raises:
        ValueError: the layout has no name for a layer.
    """
    # timm's D shortcut has a pooling, or a place holder, in front of every projection.
    average = any(layer.name.endswith("_0_pool") for layer in model.layers)
    names = {}
    for layer in model.layers:
        if not layer.weights:
            continue
        prefix = _prefix(layer.name, layout, average)
        if prefix is None:
            raise ValueError(
                f"Expected a network that the layout {layout!r} can describe. "
                f"Received: {model.name!r} with the layer {layer.name!r}"
            )
        names[layer.name] = prefix
    return names


def _prefix(name: str, layout: Layout, average: bool) -> str | None:
    block = re.fullmatch(r"conv(\d+)_block(\d+)_(\w+?)_(\w+)", name)
    if block:
        stage, number, part, kind = block.groups()
        rules = _BLOCKS[layout](part, average)
        template = rules.get("norm" if kind in ("bn", "gn") else kind)
        if template is None:
            return None
        return _BLOCK_PREFIX[layout].format(int(stage) - 2, int(number) - 1, int(stage) - 1) + (
            template
        )
    return _ENDS[layout].get(re.sub("_gn$", "_bn", name))


#: Stage from 0, block from 0, stage from 1.
_BLOCK_PREFIX: Mapping[Layout, str] = {
    "torchvision": "layer{2}.{1}.",
    "timm_resnetv2": "stages.{0}.blocks.{1}.",
    "transformers": "resnet.encoder.stages.{0}.layers.{1}.",
}


def _torchvision(part: str, average: bool) -> dict[str, str]:
    if part == "0":
        return {"conv": f"downsample.{0 + average}", "norm": f"downsample.{1 + average}"}
    if part == "se":
        return {"reduce": "se.fc1", "expand": "se.fc2"}
    return {"conv": f"conv{part}", "norm": f"bn{part}"}


def _timm_resnetv2(part: str, average: bool) -> dict[str, str]:
    if part == "0":
        return {"conv": "downsample.conv"}
    if part == "preact":
        return {"norm": "norm1"}
    if part == "se":
        return {}
    # norm1 is the pre-activation; the first convolution is followed by norm2.
    return {"conv": f"conv{part}", "norm": f"norm{int(part) + 1}"}


def _transformers(part: str, average: bool) -> dict[str, str]:
    if average or part in ("preact", "se"):
        return {}
    prefix = "shortcut" if part == "0" else f"layer.{int(part) - 1}"
    return {"conv": f"{prefix}.convolution", "norm": f"{prefix}.normalization"}


_BLOCKS: Mapping[Layout, Callable[[str, bool], dict[str, str]]] = {
    "torchvision": _torchvision,
    "timm_resnetv2": _timm_resnetv2,
    "transformers": _transformers,
}

#: Stem and head.
_ENDS: Mapping[Layout, Mapping[str, str]] = {
    "torchvision": {
        "conv1_conv": "conv1",
        "conv1_bn": "bn1",
        "conv1_1_conv": "conv1.0",
        "conv1_1_bn": "conv1.1",
        "conv1_2_conv": "conv1.3",
        "conv1_2_bn": "conv1.4",
        "conv1_3_conv": "conv1.6",
        "conv1_3_bn": "bn1",
        "predictions": "fc",
    },
    "timm_resnetv2": {
        "conv1_conv": "stem.conv",
        "conv1_1_conv": "stem.conv1",
        "conv1_1_bn": "stem.norm1",
        "conv1_2_conv": "stem.conv2",
        "conv1_2_bn": "stem.norm2",
        "conv1_3_conv": "stem.conv3",
        "post_bn": "norm",
        "predictions": "head.fc",
    },
    "transformers": {
        "conv1_conv": "resnet.embedder.embedder.convolution",
        "conv1_bn": "resnet.embedder.embedder.normalization",
        "predictions": "classifier.1",
    },
}
