"""Saved models with code that no file brings along: Lambda layers and other people's classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras

from keras_resnet.support.checks import some_of

#: Where Keras' own classes are; it writes no module for others that it can import by name.
_OWN = ("keras", "builtins")


def code_needed(config: Any, keywords: Mapping[str, Any]) -> str | None:
    """Say which code a model needs that did not load, and what can be done.

    Args:
        config: what `config.json` in a `.keras` file says.
        keywords: what it was loaded with: `custom_objects`, `compile`.

    Returns:
        A sentence to go on after the file's name; None if it needs nothing but Keras and what is
        registered with it.
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
    """The serialized objects in a config, with those inside of them."""
    if isinstance(config, list):
        for item in config:
            yield from _parts(item, compiled)
    elif isinstance(config, dict):
        name = config.get("class_name")
        # Keras' own marks, such as `__keras_tensor__`, are no classes; functions go by their names.
        is_object = isinstance(config.get("config"), dict) and "registered_name" in config
        if is_object and isinstance(name, str) and not name.startswith("__"):
            yield config
        for key, item in config.items():
            if compiled or key != "compile_config":
                yield from _parts(item, compiled)
