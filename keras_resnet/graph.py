"""Walking the graph of a functional model through its public config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras


def sources(model: keras.Model) -> dict[str, list[str]]:
    """The names of the layers that every layer takes its input from, in topological order."""
    # A functional model's config lists its layers, and operations without one, in topological
    # order, with where each one's inputs come from.
    return {
        layer["name"]: [name for node in layer["inbound_nodes"] for name in _histories(node)]
        for layer in model.get_config()["layers"]
    }


def _histories(value: Any) -> Iterator[str]:
    """Names of the layers whose outputs appear anywhere in a serialized call."""
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            yield value["config"]["keras_history"][0]
        else:
            for item in value.values():
                yield from _histories(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _histories(item)
