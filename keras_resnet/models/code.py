"""Saved models that need Python code: Lambda layers and custom classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras

from keras_resnet.support.checks import some_of

#: Modules of classes that Keras can import by itself.
_OWN = ("keras", "builtins")


def code_needed(config: Any, keywords: Mapping[str, Any]) -> str | None:
    """Describe the code that a model needs besides registered classes, and how to load it.

    Args:
        config: content of `config.json` in a `.keras` file.
        keywords: arguments of `load_model`: `custom_objects`, `compile`.

    Returns:
        The end of a sentence that starts with the file's name; `None` if no code is missing.
    """
    known = keywords.get("custom_objects") or {}
    parts = list(_parts(config, compiled=keywords.get("compile", True)))
    lambdas, names = [], []
    for part in parts:
        function = part["config"].get("function")
        if part["class_name"] == "Lambda" and isinstance(function, dict):
            if function.get("class_name") == "__lambda__":
                lambdas.append(str(part["config"].get("name")))
            else:
                names.append(str(function.get("config")))
        elif not str(part.get("module") or "").startswith(_OWN):
            names.append(str(part.get("registered_name") or part["class_name"]))
    names = [x for x in dict.fromkeys(names) if not keras.saving.get_registered_object(x, known)]
    found = [f"the Lambda layers {some_of(lambdas)}"] if lambdas else []
    found += [f"the custom classes or functions {some_of(names)}"] if names else []
    if not found:
        return None
    arguments = ", safe_mode=False" if lambdas else ""
    if names:
        arguments += f", custom_objects={{{names[0]!r}: {names[0].rpartition('>')[2]}}}"
    trust = ", if you trust the file," if lambdas else ""
    return (
        f"{' and '.join(found)}, which need Python code. In Python, load it by "
        f"`keras_resnet.load_model(path{arguments})`{trust} and write it by "
        "`keras_resnet.export.export(model, folder)` as a SavedModel, ONNX or TFLite file, which "
        "the commands take"
    )


def _parts(config: Any, compiled: bool) -> Iterator[dict[str, Any]]:
    """Yield the serialized objects in a config, nested ones included."""
    if isinstance(config, list):
        for item in config:
            yield from _parts(item, compiled)
    elif isinstance(config, dict):
        name = config.get("class_name")
        # Names such as `__keras_tensor__` mark values, not classes; functions have no config.
        is_object = isinstance(config.get("config"), dict) and "registered_name" in config
        if is_object and isinstance(name, str) and not name.startswith("__"):
            yield config
        for key, item in config.items():
            if compiled or key != "compile_config":
                yield from _parts(item, compiled)
