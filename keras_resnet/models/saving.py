"""Loading saved models, however deep they are."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import keras

from keras_resnet.models.archive import check_keras_file, opened_archive, words
from keras_resnet.models.hdf5 import Hdf5File
from keras_resnet.models.info import FILE_NAME, ModelInfo, set_info
from keras_resnet.networks.graph import allow_depth
from keras_resnet.support.json_text import parse_json
from keras_resnet.support.text import sentence

#: What registers classes with Keras, which finds them in a file once they are imported: layers of
#: compressed networks, and what a network was compiled with.
_REGISTERING = (
    "compression.layers",
    "training.losses",
    "training.metrics",
    "training.optimizers.optimizers",
    "training.optimizers.schedules",
)


#: Files in a `.keras` archive: two descriptions, the weights, and the assets of layers.
_MOST_MEMBERS = 1000


def load_model(path: str | os.PathLike[str], **keywords: Any) -> keras.Model:
    """Loads a `.keras` file, as `keras.saving.load_model` does, but of any depth.

    Keras stops at Python's recursion limit in networks like ResNet-1202; this raises it. Class
    names that were saved with the model come back, too, and so do the layers of compressed networks
    and this package's optimizers and losses in a process that has not imported them.

    Args:
        path: a `.keras` file.
        keywords: those of `keras.saving.load_model`, such as `compile=False`.

    Raises:
        ValueError: there is no `.keras` file, or it cannot be read.
    """
    path = Path(path)
    check_keras_file(path)
    try:
        config, info = _checked(path)
        layers = _count_layers(config)
    except Exception as error:
        raise ValueError(
            f"Expected a readable `.keras` file. Received: {path}: {words(error)}"
        ) from error
    allow_depth(layers)
    if '"keras_resnet>' in json.dumps(config):
        for module in _REGISTERING:
            importlib.import_module(f"keras_resnet.{module}")
    try:
        model = keras.saving.load_model(path, **keywords)
        outputs = getattr(model, "outputs", None) or []
        if len(outputs) == 1 and len(outputs[0].shape) == 2:
            info.check_names(outputs[0].shape[-1])
    except Exception as error:
        # Keras has many errors for damaged files, and names neither file nor trouble.
        raise ValueError(
            f"Expected a readable `.keras` file. Received: {path}: {sentence(str(error))}"
        ) from error
    if info != ModelInfo():
        set_info(model, info)
    return model


def _checked(path: Path) -> tuple[Any, ModelInfo]:
    """What a file says about its model, once nothing in it can harm who loads it."""
    with opened_archive(path) as archive:
        if len(archive.members) > _MOST_MEMBERS:
            raise ValueError(f"an archive of {len(archive.members):,} files")
        # Keras unfolds them all, and believes their sizes.
        contents = {name: archive.read(name) for name in archive.members}
    # Keras gives this part to a library in C, which crashes or hangs on damaged ones.
    Hdf5File(contents["model.weights.h5"]).check()
    info = contents.get(f"assets/{FILE_NAME}", b"{}")
    return parse_json(contents["config.json"]), ModelInfo.from_json(info.decode())


def _count_layers(config: Any) -> int:
    """Layers of a serialized model, with those of the models inside it."""
    inside = config.get("config") if isinstance(config, dict) else None
    layers = inside.get("layers") if isinstance(inside, dict) else None
    return 1 + sum(map(_count_layers, layers or ()))
