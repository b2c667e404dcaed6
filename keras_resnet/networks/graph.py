"""The graph of a functional Keras model, read from its public config."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any

import keras

from keras_resnet.networks.names import place_of

#: Stack frames for Keras, TensorFlow and the caller, in addition to the graph's.
_FRAMES_IN_USE = 1000


def allow_depth(layers: int) -> None:
    """Raise Python's recursion limit so that Keras can walk a graph of `layers` layers.

    Keras walks graphs recursively. The limit stays raised, because the caller may create another
    `keras.Model` from the graph. (Since Python 3.11, recursion takes no C stack.)
    """
    sys.setrecursionlimit(max(sys.getrecursionlimit(), layers + _FRAMES_IN_USE))


def find_network(model: keras.Model) -> keras.Model:
    """Return the network of this package: `model` itself, or the only one among its layers.

    A network is recognized by layers named as in `keras_resnet.build`.

    Raises:
        ValueError: there is no network, or there are several.
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
    """Return the element of a nested structure with a single element, else the structure."""
    flat = keras.tree.flatten(structure)
    return flat[0] if len(flat) == 1 else structure


def graph_config(model: keras.Model) -> list[dict[str, Any]]:
    """Return the configs of a functional model's layers and operations.

    The entry `inbound_nodes` of each lists the calls, with the origin of their inputs.
    """
    config = model.get_config()
    if "layers" not in config:
        # The config of a subclass, such as KerasHub's, may hold arguments of its constructor only.
        config = keras.Model(model.inputs, model.outputs).get_config()
    return list(config["layers"])


def inputs_of(model: keras.Model) -> dict[str, list[str]]:
    """Return the names of each layer's input layers, in topological order.

    Raises:
        ValueError: the model calls a layer on that layer's own output.
    """
    inputs = {
        layer["name"]: [name for node in layer["inbound_nodes"] for name in _histories(node)]
        for layer in graph_config(model)
    }
    try:
        return {name: inputs[name] for name in TopologicalSorter(inputs).static_order()}
    except CycleError as error:
        raise ValueError(
            "Expected a model that calls no layer on that layer's own result. "
            f"Received: {model.name!r}, which calls {error.args[1][0]!r} on its own result"
        ) from error


def _histories(value: Any) -> Iterator[str]:
    """Yield the names of the layers whose outputs appear in a serialized call."""
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            yield value["config"]["keras_history"][0]
        else:
            for item in value.values():
                yield from _histories(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _histories(item)
