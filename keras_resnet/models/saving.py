"""Loading of saved models of any depth."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import keras

from keras_resnet.models.archive import check_model_file, describe_damage, opened_archive
from keras_resnet.models.code import code_needed
from keras_resnet.models.hdf5 import Hdf5File
from keras_resnet.models.info import FILE_NAME, ModelInfo, set_info
from keras_resnet.networks.graph import allow_depth
from keras_resnet.support.disks import DiskFullError, check_temporary_space, raise_if_full
from keras_resnet.support.json_text import parse_json
from keras_resnet.support.text import sentence

#: Modules that register classes with Keras when they are imported: layers of compressed networks,
#: losses, metrics, optimizers and schedules.
_REGISTERING = (
    "compression.layers",
    "training.losses",
    "training.metrics",
    "training.optimizers.optimizers",
    "training.optimizers.schedules",
)


#: Limit of the files in a `.keras` archive: two descriptions, the weights, and assets of layers.
_MOST_MEMBERS = 1000


def load_model(path: str | os.PathLike[str], **keywords: Any) -> keras.Model:
    """Load a model of any depth from a `.keras` file, or from a `.h5` file with a whole model.

    In addition to `keras.saving.load_model`, it

    - raises Python's recursion limit, which networks like ResNet-1202 need,
    - restores class names, evaluation protocol and config,
    - imports the layers, losses, metrics and optimizers of this package, and
    - refuses damaged or hostile files before a C library opens them.

    From a `.h5` file, only the layers and their weights are restored.

    Args:
        path: a `.keras` file, or a `.h5` or `.hdf5` file that `model.save` wrote.
        keywords: arguments of `keras.saving.load_model`, such as `compile=False`.

    Returns:
        The `keras.Model`.

    Raises:
        ValueError: the file is missing, cannot be read, or contains only weights.
        OSError: the disk of temporary files is full.
    """
    path = Path(path)
    check_model_file(path)
    is_hdf5 = path.suffix != ".keras"
    try:
        config, info = _checked_hdf5(path) if is_hdf5 else _checked(path)
        layers = _count_layers(config)
    except DiskFullError:
        raise
    except Exception as error:
        raise ValueError(
            f"Expected a readable `{path.suffix}` file. Received: {path}: {describe_damage(error)}"
        ) from error
    allow_depth(layers)
    if '"keras_resnet>' in json.dumps(config):
        for module in _REGISTERING:
            importlib.import_module(f"keras_resnet.{module}")
    try:
        if is_hdf5:
            # For such files, Keras creates optimizers and losses without its safe mode.
            keywords["compile"] = False
        model = keras.saving.load_model(path, **keywords)
        outputs = getattr(model, "outputs", None) or []
        if len(outputs) == 1 and len(outputs[0].shape) == 2:
            info.check_names(outputs[0].shape[-1])
    except Exception as error:
        # Keras unpacks archives with assets into a temporary directory.
        raise_if_full(error)
        if (needed := code_needed(config, keywords)) is not None:
            raise ValueError(
                f"Expected a `.keras` file that needs no code of its own. Received: {path}, with "
                f"{needed}"
            ) from error
        # For damaged files, Keras raises many exceptions that name neither file nor damage.
        remedy = (
            ". Only models of Keras' own layers can be loaded from such files. Save it as `.keras` "
            "in the program that made it"
            if is_hdf5
            else ""
        )
        raise ValueError(
            f"Expected a readable `{path.suffix}` file. Received: {path}: {sentence(str(error))}"
            f"{remedy}"
        ) from error
    if info != ModelInfo():
        set_info(model, info)
    return model


def _checked(path: Path) -> tuple[Any, ModelInfo]:
    """Return the config and the information in a `.keras` file; raise if loading is not safe."""
    with opened_archive(path) as archive:
        if len(archive.members) > _MOST_MEMBERS:
            raise ValueError(f"an archive of {len(archive.members):,} files")
        # Keras unpacks all members without checking their sizes, so they are checked here.
        contents = {name: archive.read(name) for name in archive.members}
    if any(name.startswith("assets/") for name in contents):
        # Keras unpacks such an archive, and would leave files behind if the disk became full.
        check_temporary_space(sum(map(len, contents.values())), f"{path}, unpacked")
    # Keras opens this member with a C library, which crashes or hangs on damaged files.
    Hdf5File(contents["model.weights.h5"]).check()
    info = contents.get(f"assets/{FILE_NAME}", b"{}")
    return parse_json(contents["config.json"]), ModelInfo.from_json(info.decode())


def _checked_hdf5(path: Path) -> tuple[Any, ModelInfo]:
    """Return the config in a `.h5` file and empty information; raise if loading is not safe."""
    file = Hdf5File(path.read_bytes())
    texts = file.strings("", "model_config")
    if not texts:
        raise ValueError(
            "weights without a model. Build the network by name and pass the file as `weights`"
        )
    config = parse_json(texts[0])
    if _has_code(config):
        raise ValueError("a model with a Lambda layer, whose code would be run")
    file.check(with_empty_lists=True)
    return config, ModelInfo()


def _has_code(config: Any) -> bool:
    """Return whether a serialized model contains Python code, as Lambda layers do."""
    if isinstance(config, dict):
        code = {"Lambda", "__lambda__"} & {config.get("class_name"), config.get("class")}
        return bool(code) or any(map(_has_code, config.values()))
    return isinstance(config, list) and any(map(_has_code, config))


def _count_layers(config: Any) -> int:
    """Count the layers of a serialized model, with those of nested models."""
    inside = config.get("config") if isinstance(config, dict) else None
    layers = inside.get("layers") if isinstance(inside, dict) else None
    return 1 + sum(map(_count_layers, layers or ()))
