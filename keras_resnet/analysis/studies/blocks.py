"""The stem, residual blocks and head of a network as separate functions that share its weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from keras_resnet.models.outputs import bare
from keras_resnet.networks.names import place_of

#: A function from a batch of feature maps to another one.
Function = Callable[[Any], Any]


@dataclass(frozen=True)
class Block:
    """A residual or plain block.

    Attributes:
        name: name such as `conv2_block1`.
        stage: number of the stage, from 2.
        whole: the whole block.
        shortcut: the shortcut alone, with projection and subsampling. For a plain block, the
            identity, or None if the block changes the shape.
        residual: the residual branch alone; None for a plain block.
        tail: the layers after the addition: the last ReLU, or none.
        keeps_shape: whether the output has the shape of the input.
    """

    name: str
    stage: int
    whole: Function
    shortcut: Function | None
    residual: Function | None
    tail: Function
    keeps_shape: bool

    def without_residual(self, x: Any) -> Any:
        """Compute the block with its residual branch deleted."""
        assert self.shortcut is not None
        # The ReLU of a plain block is deleted too: it would not change the block's input.
        return self.shortcut(x) if self.residual is None else self.tail(self.shortcut(x))


@dataclass(frozen=True)
class Network:
    """The functions of a network, which computes `head(blocks(stem(images)))`."""

    stem: Function
    blocks: tuple[Block, ...]
    head: Function


def layers_by_block(model: keras.Model) -> dict[tuple[int, int], list[keras.Layer]]:
    """Return `(stage, number)` of every block of a flat network -> its layers, in order.

    Raises:
        ValueError: no layers are named as in `keras_resnet.build`.
    """
    layers: dict[tuple[int, int], list[keras.Layer]] = {}
    for layer in model.layers:
        if place := place_of(layer.name):
            layers.setdefault((place.stage, place.block), []).append(layer)
    if not layers:
        raise ValueError(
            "Expected a flat network with layers named as in `keras_resnet.build`. Received: "
            f"{model.name!r}, which has none. If it contains such a network, pass that"
        )
    return dict(sorted(layers.items()))


def block_name(place: tuple[int, int]) -> str:
    """Return the name of the block with a stage and number, such as `conv2_block1`."""
    return f"conv{place[0]}_block{place[1]}"


def take_apart(model: keras.Model, compiled: bool = False) -> Network:
    """Return the functions of a flat network of this package, even if fine-tuned or compressed.

    Args:
        model: the network.
        compiled: whether TensorFlow compiles each function at its first call, which is faster for
            many calls. No effect under other backends.

    Raises:
        ValueError: no layers are named as in `keras_resnet.build`.
    """
    model = bare(model)
    layers = layers_by_block(model)
    places = list(layers)
    ends = [layers[place][-1].output for place in places]
    starts = [layers[places[0]][0].input, *ends[:-1]]
    blocks = [
        _block(place, layers[place], start, end, compiled)
        for place, start, end in zip(places, starts, ends, strict=True)
    ]
    stem = _function(model.input, starts[0], compiled)
    head = _function(ends[-1], model.output, compiled)
    return Network(stem, tuple(blocks), head)


def _block(
    place: tuple[int, int], layers: list[keras.Layer], start: Any, end: Any, compiled: bool
) -> Block:
    whole = _function(start, end, compiled)
    additions = [layer for layer in layers if isinstance(layer, keras.layers.Add)]
    keeps_shape = tuple(start.shape) == tuple(end.shape)
    name = block_name(place)
    if not additions:
        identity = (lambda x: x) if keeps_shape else None
        return Block(name, place[0], whole, identity, None, lambda x: x, keeps_shape)
    shortcut, residual = additions[-1].input
    return Block(
        name,
        place[0],
        whole,
        _function(start, shortcut, compiled),
        _function(start, residual, compiled),
        _function(additions[-1].output, end, compiled),
        keeps_shape,
    )


def _function(start: Any, end: Any, compiled: bool) -> Function:
    """Return a function that computes one tensor of a graph from another, in inference mode."""
    if start is end:
        return lambda x: x
    model = keras.Model(start, end)

    def run(x: Any) -> Any:
        return model(x, training=False)

    if not compiled or keras.backend.backend() != "tensorflow":
        return run
    import tensorflow as tf

    # Batches of any size.
    images = tf.TensorSpec((None, *start.shape[1:]), start.dtype)
    traced = tf.function(run, input_signature=[images], autograph=False)
    # Calling `traced` itself would count as retracing, of which TensorFlow warns.
    concrete = functools.cache(traced.get_concrete_function)
    return lambda x: concrete()(tf.convert_to_tensor(x, start.dtype))
