"""A network taken apart: stem, residual blocks and head, which share its weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from keras_resnet.models.outputs import bare
from keras_resnet.networks.names import place_of

#: From a batch of feature maps to another one.
Function = Callable[[Any], Any]


@dataclass(frozen=True)
class Block:
    """A residual block, or a plain one.

    Attributes:
        name: such as `conv2_block1`.
        stage: its number, from 2 on.
        whole: the block itself.
        shortcut: its shortcut alone, projection and subsampling included; of a plain block, the
            identity. None of a plain block that changes the shape of its input.
        residual: its residual branch alone; None of a plain block.
        tail: what comes after the addition: the last ReLU, if there is one.
        keeps_shape: whether its output has the shape of its input.
    """

    name: str
    stage: int
    whole: Function
    shortcut: Function | None
    residual: Function | None
    tail: Function
    keeps_shape: bool

    def without_residual(self, x: Any) -> Any:
        """The block with its residual branch deleted."""
        assert self.shortcut is not None
        # A plain block that is deleted takes its ReLU along: its input has had one.
        return self.shortcut(x) if self.residual is None else self.tail(self.shortcut(x))


@dataclass(frozen=True)
class Network:
    """A network in parts: `head(blocks(stem(images)))`."""

    stem: Function
    blocks: tuple[Block, ...]
    head: Function


def layers_by_block(model: keras.Model) -> dict[tuple[int, int], list[keras.Layer]]:
    """The layers of every block of a flat network, by its stage and number, both in their order.

    Raises:
        ValueError: the model has no blocks named as in `keras_resnet.build`.
    """
    layers: dict[tuple[int, int], list[keras.Layer]] = {}
    for layer in model.layers:
        if place := place_of(layer.name):
            layers.setdefault((place.stage, place.block), []).append(layer)
    if not layers:
        raise ValueError(
            "Expected a flat network with layers named as in `keras_resnet.build`. Received: "
            f"{model.name!r} without any; pass the network inside, if there is one"
        )
    return dict(sorted(layers.items()))


def block_name(place: tuple[int, int]) -> str:
    """The name of the block of a stage and number, such as `conv2_block1`."""
    return f"conv{place[0]}_block{place[1]}"


def take_apart(model: keras.Model, compiled: bool = False) -> Network:
    """Return the parts of a flat network of this package, fresh, fine-tuned, compressed or loaded.

    Args:
        model: the network.
        compiled: whether TensorFlow compiles each part when it is first called, which pays if parts
            run often. Under other backends, parts run as they are.

    Raises:
        ValueError: the model has no blocks named as in `keras_resnet.build`.
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
    """Return a function that computes one tensor of a graph from another, without training."""
    if start is end:
        return lambda x: x
    part = keras.Model(start, end)

    def run(x: Any) -> Any:
        return part(x, training=False)

    if not compiled or keras.backend.backend() != "tensorflow":
        return run
    import tensorflow as tf

    # Batches of any size, and of the numbers that the layer before puts out.
    images = tf.TensorSpec((None, *start.shape[1:]), start.dtype)
    traced = tf.function(run, input_signature=[images], autograph=False)
    # A function that is traced by a call counts as traced again, and TensorFlow warns of many.
    concrete = functools.cache(traced.get_concrete_function)
    return lambda x: concrete()(tf.convert_to_tensor(x, start.dtype))
