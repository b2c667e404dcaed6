"""Making the graph of a functional model, and walking it through its public config."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any

import keras

from keras_resnet.networks.names import place_of

#: What Keras, TensorFlow and the caller have on the stack already.
_FRAMES_IN_USE = 1000


def allow_depth(layers: int) -> None:
    """Raises Python's recursion limit to what making a graph of so many layers needs.

    Keras walks a graph recursively. The limit rises for good, not for the moment: the caller, too,
    may make a `keras.Model` of the graph, to fine-tune it, say. (Since Python 3.11, recursion takes
    no C stack.)
    """
    sys.setrecursionlimit(max(sys.getrecursionlimit(), layers + _FRAMES_IN_USE))


def find_network(model: keras.Model) -> keras.Model:
    """The model itself if it has layers named as in `keras_resnet.build`; else the one inside.

    Raises:
        ValueError: there is none, or there are several.
    """
    if _is_network(model):
        return model
    inside = [layer for layer in model.layers if _is_network(layer)]
    if len(inside) != 1:
        raise ValueError(
            "Expected a model with layers named as in `keras_resnet.build`, or with one such model "
            f"inside. Received: {model.name!r} with {len(inside)} of them"
        )
    return inside[0]


def _is_network(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.Model) and any(place_of(inner.name) for inner in layer.layers)


def only(structure: Any) -> Any:
    """The element of a structure that has one, however deep; another structure as it is."""
    flat = keras.tree.flatten(structure)
    return flat[0] if len(flat) == 1 else structure


def graph_config(model: keras.Model) -> list[dict[str, Any]]:
    """The configs of a functional model's layers, and of its operations that are none.

    They say where the inputs of each come from, in `inbound_nodes`.
    """
    config = model.get_config()
    if "layers" not in config:
        # That of a subclass, such as KerasHub's, may say how to call the class.
        config = keras.Model(model.inputs, model.outputs).get_config()
    return list(config["layers"])


def inputs_of(model: keras.Model) -> dict[str, list[str]]:
    """The names of the layers that every layer takes its input from, in topological order."""
    inputs = {
        layer["name"]: [name for node in layer["inbound_nodes"] for name in _histories(node)]
        for layer in graph_config(model)
    }
    try:
        return {name: inputs[name] for name in TopologicalSorter(inputs).static_order()}
    except CycleError as error:
        raise ValueError(
            "Expected a model that calls every layer once, or its calls side by side. "
            f"Received: {model.name!r}, which calls {error.args[1][0]!r} on its own result"
        ) from error


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
