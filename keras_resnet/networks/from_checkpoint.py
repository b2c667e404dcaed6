"""Networks built from checkpoints, without a config."""

from __future__ import annotations

import os
from typing import Any

import keras

from keras_resnet.networks.builder import build, warn_of_changes
from keras_resnet.networks.builders import split_keywords, weights_config
from keras_resnet.networks.table import find_name, get_config
from keras_resnet.weights.find import open_checkpoint
from keras_resnet.weights.load import load_opened


def from_checkpoint(
    source: str | os.PathLike[str], *, network: str | None = None, **keywords: Any
) -> keras.Model:
    """Build the network that a checkpoint's keys and shapes describe, and load the checkpoint.

    Details that keys and shapes do not show are taken from the metadata of the file, else from a
    `config.json` of timm or transformers beside the file, else from the name of the file and its
    repository. Networks that are known to compute something else with the same keys (timm's BiT and
    `resnetaa*`, other activations, …) are refused; `resnetblur*` gets blur pooling. Remaining
    details (the strided convolution of a bottleneck, the normalization of pixels, the groups of
    group normalization) follow the convention of the package that wrote the checkpoint. The
    attribute `load_report` of the model lists these assumptions.

    Args:
        source: path of a `.safetensors`, `.pth`, `.bin`, `.th`, `.h5` or `.npz` file, or a tag of
            `list_weights()`.
        network: name of `list_models()` that the checkpoint must be of; `None` to infer it.
        keywords: arguments of `keras_resnet.build`, and fields of `ResNetConfig` to replace, such
            as `classes=10` or `output_stride=8`. By default, the model has the checkpoint's
            classifier, if there is one. Channels of `None` in `input_shape` are those of the
            checkpoint.

    Returns:
        A `keras.Model`, see `keras_resnet.build`.

    Raises:
        ValueError: the file cannot be read, or is not of a network of this package.
        OSError: the file of a tag cannot be downloaded.

    Examples:
        >>> model = keras_resnet.from_checkpoint("resnet50-0676ba61.pth")
        >>> print(model.load_report.notes)
    """
    overrides, arguments = split_keywords(keywords)
    network = None if network is None else find_name(network)
    if (given := arguments.pop("weights", None)) is not None:
        raise ValueError(
            "Expected no `weights`, as `from_checkpoint` loads its `source`. Pass the file or the "
            f"tag as `source`. Received: weights={given!r}"
        )
    opened = open_checkpoint(source, None, with_top=arguments.get("include_top", True))
    inferred = opened.inferred
    if inferred is None:
        raise ValueError(
            "Expected a checkpoint of another package, or a `.weights.h5` file. Received: "
            f"{source}, a whole model. Load it by `keras_resnet.load_model`"
        )
    opened.notes = inferred.notes
    if opened.entry is not None:
        if network not in (None, opened.entry.model):
            raise ValueError(
                f"Expected a checkpoint of `{network}`. Received: {opened.entry.tag!r}, which is "
                f"of `{opened.entry.model}`. Pass `network={opened.entry.model!r}`, or none"
            )
        network = opened.entry.model
        config = weights_config(opened.entry, **overrides)
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
    model.load_report = load_opened(model, opened)
    warn_of_changes(model.load_report)
    return model
