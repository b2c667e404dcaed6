"""Loading saved models, however deep they are."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import keras

from keras_resnet.models.archive import check_model_file, opened_archive, words
from keras_resnet.models.code import code_needed
from keras_resnet.models.hdf5 import Hdf5File
from keras_resnet.models.info import FILE_NAME, ModelInfo, set_info
from keras_resnet.networks.graph import allow_depth
from keras_resnet.support.disks import DiskFullError, check_temporary_space, raise_if_full
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
    """Loads a `.keras` file, or a whole model in a `.h5` file, of any depth.

    Does what `keras.saving.load_model` does, which stops at Python's recursion limit in networks
    like ResNet-1202; this raises it. Class names that were saved with the model come back, too, and
    so do the layers of compressed networks and this package's optimizers and losses in a process
    that has not imported them. Of a `.h5` file, neither names nor optimizer and losses come back.

    Args:
        path: a `.keras` file, or a `.h5` or `.hdf5` file that `model.save` wrote.
        keywords: those of `keras.saving.load_model`, such as `compile=False`.

    Raises:
        ValueError: there is no such file, it cannot be read, or it holds weights alone.
        OSError: the disk of temporary files is full.
    """
    path = Path(path)
    check_model_file(path)
    is_hdf5 = path.suffix != ".keras"
    kind = path.suffix
    try:
        config, info = _checked_hdf5(path) if is_hdf5 else _checked(path)
        layers = _count_layers(config)
    except DiskFullError:
        raise
    except Exception as error:
        raise ValueError(
            f"Expected a readable `{kind}` file. Received: {path}: {words(error)}"
        ) from error
    allow_depth(layers)
    if '"keras_resnet>' in json.dumps(config):
        for module in _REGISTERING:
            importlib.import_module(f"keras_resnet.{module}")
    try:
        if is_hdf5:
            # Keras makes optimizers and losses of such files without its safe mode.
            keywords["compile"] = False
        model = keras.saving.load_model(path, **keywords)
        outputs = getattr(model, "outputs", None) or []
        if len(outputs) == 1 and len(outputs[0].shape) == 2:
            info.check_names(outputs[0].shape[-1])
    except Exception as error:
        # It unpacks some files into the folder of temporary ones.
        raise_if_full(error)
        if (needed := code_needed(config, keywords)) is not None:
            raise ValueError(
                f"Expected a `.keras` file that needs no code of its own. Received: {path}, with "
                f"{needed}"
            ) from error
        # Keras has many errors for damaged files, and names neither file nor trouble.
        remedy = (
            ". Such files hold models of Keras' own layers only: save it as `.keras` where it was "
            "made"
            if is_hdf5
            else ""
        )
        raise ValueError(
            f"Expected a readable `{kind}` file. Received: {path}: {sentence(str(error))}{remedy}"
        ) from error
    if info != ModelInfo():
        set_info(model, info)
    return model


def _checked(path: Path) -> tuple[Any, ModelInfo]:
    """Return a file's description of its model, after checking that loading it is safe."""
    with opened_archive(path) as archive:
        if len(archive.members) > _MOST_MEMBERS:
            raise ValueError(f"an archive of {len(archive.members):,} files")
        # Keras unfolds them all, and believes their sizes.
        contents = {name: archive.read(name) for name in archive.members}
    if any(name.startswith("assets/") for name in contents):
        # Keras unpacks it, and would leave the half of it there if the disk filled up.
        check_temporary_space(sum(map(len, contents.values())), f"{path}, unpacked")
    # Keras gives this part to a library in C, which crashes or hangs on damaged ones.
    Hdf5File(contents["model.weights.h5"]).check()
    info = contents.get(f"assets/{FILE_NAME}", b"{}")
    return parse_json(contents["config.json"]), ModelInfo.from_json(info.decode())


def _checked_hdf5(path: Path) -> tuple[Any, ModelInfo]:
    """The same of a `.h5` file, which knows nothing but the layers and their weights."""
    file = Hdf5File(path.read_bytes())
    texts = file.strings("", "model_config")
    if not texts:
        raise ValueError(
            "weights without a model. Pass the name of their network, and the file as its `weights`"
        )
    config = parse_json(texts[0])
    if _has_code(config):
        raise ValueError("a model with a Lambda layer, whose code would be run")
    file.check(with_empty_lists=True)
    return config, ModelInfo()


def _has_code(config: Any) -> bool:
    """Whether a serialized model has pickled functions in it."""
    if isinstance(config, dict):
        code = {"Lambda", "__lambda__"} & {config.get("class_name"), config.get("class")}
        return bool(code) or any(map(_has_code, config.values()))
    return isinstance(config, list) and any(map(_has_code, config))


def _count_layers(config: Any) -> int:
    """Layers of a serialized model, with those of the models inside it."""
    inside = config.get("config") if isinstance(config, dict) else None
    layers = inside.get("layers") if isinstance(inside, dict) else None
    return 1 + sum(map(_count_layers, layers or ()))
