"""Making the graph of a functional model, and walking it through its public config."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import keras

#: What Keras, TensorFlow and the caller have on the stack already.
_FRAMES_IN_USE = 1000


def allow_depth(layers: int) -> None:
    """Raises Python's recursion limit to what making a graph of so many layers needs.

    Keras walks a graph recursively. The limit rises for good, not for the moment: the caller, too,
    may make a `keras.Model` of the graph, to fine-tune it, say. (Since Python 3.11, recursion takes
    no C stack.)
    """
    sys.setrecursionlimit(max(sys.getrecursionlimit(), layers + _FRAMES_IN_USE))


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
