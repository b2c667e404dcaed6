"""Networks built from the checkpoints that they are for."""

from __future__ import annotations

import os
from typing import Any

import keras

from keras_resnet.networks.builder import build, warn_of_changes
from keras_resnet.networks.builders import split_keywords, weights_config
from keras_resnet.networks.table import find_name, get_config
from keras_resnet.weights.find import open_checkpoint
from keras_resnet.weights.load import load_found


def from_checkpoint(
    source: str | os.PathLike[str], *, network: str | None = None, **keywords: Any
) -> keras.Model:
    """Builds the network that a checkpoint's keys and shapes describe, and loads it.

    What they do not show is asked of the file's metadata, else of a `config.json` of timm or
    transformers beside it, else of the file's name and repository: networks that are known to
    compute something else with the same keys (timm's BiT and `resnetaa*`, other activations, …) are
    refused, `resnetblur*` get their blur pooling. The rest (which convolution of a bottleneck has
    the stride, how pixels are normalised, how many groups a group normalisation has) follows the
    convention of the package that the checkpoint is from. The report, the model's attribute
    `load_report`, says what, and lists what keys cannot show.

    Args:
        source: path of a `.safetensors`, `.pth`, `.bin`, `.th`, `.h5` or `.npz` file, or a tag of
            `list_weights()`.
        network: a name of `list_models()`, if the checkpoint has to be of that network.
        keywords: those of `keras_resnet.build`, and fields of `ResNetConfig` to replace, such as
            `classes=10` or `output_stride=8`. By default the model has the checkpoint's classifier,
            if it has one, and in `input_shape` the channels may be `None` for the checkpoint's.

    Returns:
        A `keras.Model`, as `keras_resnet.build` makes it.

    Raises:
        ValueError: the file cannot be read, or is of no network of this package.
        OSError: a tag's file cannot be downloaded.
    """
    overrides, arguments = split_keywords(keywords)
    network = None if network is None else find_name(network)
    if arguments.pop("weights", None) is not None:
        raise ValueError("Expected no `weights`: they are the checkpoint. Pass it as `source`")
    found = open_checkpoint(source, None, with_top=arguments.get("include_top", True))
    inferred = found.inferred
    if inferred is None:
        raise ValueError(
            f"Expected a checkpoint of another package, or `.weights.h5`. Received: {source}, a "
            "whole model: use `load_model`"
        )
    found.notes = inferred.notes
    if found.entry is not None:
        if network not in (None, found.entry.model):
            raise ValueError(
                f"Expected weights of `{network}`. Received: {found.entry.tag!r}, which are of "
                f"`{found.entry.model}`"
            )
        network = found.entry.model
        config = weights_config(found.entry, **overrides)
    elif network is not None:
        fields = ("mean", "std", "output_stride")
        known = {field: getattr(inferred.config, field) for field in fields}
        config = get_config(network, **{**known, **overrides})
    else:
        config = inferred.config.replace(**overrides)
    arguments["name"] = arguments.get("name") or network
    arguments.setdefault("include_top", inferred.classes is not None)
    if arguments["include_top"]:
        arguments.setdefault("classes", inferred.classes)
    side = config.default_size if arguments["include_top"] else None
    height, width, channels = arguments.get("input_shape") or (side, side, None)
    arguments["input_shape"] = (height, width, channels or inferred.channels)
    model = build(config, **arguments)
    model.load_report = load_found(model, found)
    warn_of_changes(model.load_report)
    return model
