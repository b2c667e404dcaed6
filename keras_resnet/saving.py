"""Loading saved models, however deep they are, and copying their weights."""

from __future__ import annotations

import json
import math
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import keras

from keras_resnet.graph import allow_depth, find_network, sources

#: Stands for all layers of blur pooling in the description of a network.
_BLUR = "blur pooling"


def load_model(path: str | os.PathLike[str], **keywords: Any) -> keras.Model:
    """Loads a `.keras` file, as `keras.saving.load_model` does, but of any depth.

    Keras stops at Python's recursion limit in networks like ResNet-1202; this raises it.

    Args:
        path: a `.keras` file.
        keywords: those of `keras.saving.load_model`, such as `compile=False`.

    Raises:
        ValueError: there is no `.keras` file, or it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(
            f"Expected a `.keras` file. Received: the directory {path}. A SavedModel can be run by "
            "`keras_resnet.export.load_runner`, but not trained; that takes the `.keras` file"
        )
    if path.suffix != ".keras" or not path.is_file():
        raise ValueError(f"Expected the path of an existing `.keras` file. Received: {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"Expected a readable `.keras` file. Received: {path}: {error}") from error
    allow_depth(_count_layers(config))
    return keras.saving.load_model(path, **keywords)


def _count_layers(config: Any) -> int:
    """Layers of a serialized model, with those of the models inside it."""
    inside = config.get("config") if isinstance(config, dict) else None
    if not isinstance(inside, dict):
        return 1
    return 1 + sum(_count_layers(layer) for layer in inside.get("layers", ()))


def copy_weights(path: str | os.PathLike[str], model: keras.Model) -> None:
    """Copies the weights of the model saved in a `.keras` file, layer by layer, by name.

    Every layer has to have the same shapes and, as far as it shows in the layers, to compute the
    same: strides and shortcuts leave no trace in the shapes of weights. A network with another
    `output_stride` is the same network. In the file, it may be inside another model.

    Raises:
        ValueError: the file does not hold the same network.
    """
    if Path(path).suffix != ".keras" or not Path(path).is_file():
        raise ValueError(
            "Expected `weights` to be None or the path of an existing `.keras` file. "
            f"Received: weights={str(path)!r}"
        )
    saved = find_network(load_model(path, compile=False))
    theirs, ours = _descriptions(saved), _descriptions(model)
    # What the caller decides about the model at hand, whatever the saved one was used for.
    free = {"predictions"} - ours.keys()
    if not theirs.keys() & ours.keys() & {"normalization"}:
        free.add("normalization")
    if _reduction(saved) != _reduction(model):
        free.add(_BLUR)  # It goes where strides become dilation.
    changed = {name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]}
    for problem, names in (
        ("it lacks", ours.keys() - theirs.keys()),
        ("it also has", theirs.keys() - ours.keys()),
        ("it has another", changed),
    ):
        found = [f"{name} {theirs.get(name) or ''}".strip() for name in sorted(names - free)]
        if found:
            rest = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise ValueError(
                f"Expected `weights` to be of the same network as `{model.name}`. "
                f"Received: {path}: {problem} {', '.join(found[:3])}{rest}"
            )
    for layer in model.layers:
        if layer.name in ours:
            layer.set_weights(saved.get_layer(layer.name).get_weights())


def _descriptions(model: keras.Model) -> dict[str, dict[str, Any]]:
    """What has to be equal for weights to mean the same, by layer of the network proper."""
    pitches = _pitches(model)
    result: dict[str, dict[str, Any]] = {}
    for layer in model.layers:
        name, config = layer.name, layer.get_config()
        stem_or_head = re.match(r"pool1_|normalization$|predictions$", name)
        if not stem_or_head and not (re.match(r"conv\d+_|post_", name) and layer.weights):
            # Of layers without weights, only additions and average pooling have to be there.
            if isinstance(layer, keras.layers.Add) or name.endswith("_0_pool"):
                result[name] = {}
            continue
        result[name] = {key: config[key] for key in ("groups", "mean", "variance") if key in config}
        if layer.weights:
            result[name]["weights"] = [tuple(weight.shape) for weight in layer.weights]
        if max(config.get("kernel_size", (1,))) > 1:
            result[name]["pitch"] = pitches[name]
    if any("_blur" in layer.name for layer in model.layers):
        result[_BLUR] = {}
    return result


def _pitches(model: keras.Model) -> dict[str, int]:
    """Distance, in input pixels, of the neighbours under every layer's kernel.

    Dilation in place of an earlier stride does not change it.
    """
    layers = {layer.name: layer.get_config() for layer in model.layers}
    reduced: dict[str, int] = {}
    pitches = {}
    for name, inputs in sources(model).items():
        before = max((reduced[source] for source in inputs), default=1)
        config = layers.get(name, {})
        pitches[name] = before * max(config.get("dilation_rate", (1,)))
        reduced[name] = before * max(config.get("strides", (1,)))
    return pitches


def _reduction(model: keras.Model) -> int:
    """Input pixels per position of the last feature map."""
    layers = (layer.get_config() for layer in model.layers if "_0_" not in layer.name)
    return math.prod(max(config.get("strides", (1,))) for config in layers)
