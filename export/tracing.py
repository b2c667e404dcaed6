"""Layers traced in other forms of equal values, and under their own names."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

#: Computes a layer of one class, given the layer, its own `call` and its input.
Form = tuple[type[keras.Layer], Callable[[Any, Callable[..., Any], Any], Any]]

#: What TensorFlow takes as the name of a scope.
_SCOPE = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\-]*")


def leaf_layers(model: keras.Model) -> Iterator[keras.Layer]:
    """The layers of a model and of the models inside, without these models themselves.

    Layers that have layers of their own, such as wrappers, come before these.
    """
    for layer in model.layers:
        yield from leaf_layers(layer) if isinstance(layer, keras.Model) else _with_inner(layer)


def _with_inner(layer: keras.Layer) -> Iterator[keras.Layer]:
    yield layer
    found: list[keras.Layer] = []
    for value in vars(layer).values():
        several = isinstance(value, (list, tuple))
        found += [x for x in (value if several else [value]) if isinstance(x, keras.layers.Layer)]
    for inner in {id(x): x for x in found}.values():
        yield from leaf_layers(inner) if isinstance(inner, keras.Model) else _with_inner(inner)


@contextlib.contextmanager
def with_calls(
    model: keras.Model, of_layer: Callable[[keras.Layer], Callable[..., Any]]
) -> Iterator[None]:
    """Replace the `call` of every layer by another function within the context."""
    # A model and one inside may share their input layer.
    layers = list(dict.fromkeys(leaf_layers(model)))
    before = [(layer, vars(layer).get("call")) for layer in layers]
    try:
        for layer in layers:
            object.__setattr__(layer, "call", of_layer(layer))
        yield
    finally:
        for layer, call in before:
            if call is None:
                object.__delattr__(layer, "call")
            else:
                object.__setattr__(layer, "call", call)


def traced_as(model: keras.Model, forms: Sequence[Form]) -> contextlib.AbstractContextManager[None]:
    """Lets layers be traced in the form that suits a format, each in a scope of its own name.

    The values are the same.
    """
    return with_calls(model, lambda layer: _traced_call(layer, forms))


def _traced_call(layer: keras.Layer, forms: Sequence[Form]) -> Callable[..., Any]:
    # Not of subclasses, which may compute something else.
    found = [form for kind, form in forms if type(layer) is kind]
    original = functools.partial(found[0], layer, layer.call) if found else layer.call

    @functools.wraps(layer.call)
    def call(*args: Any, **keywords: Any) -> Any:
        if not _SCOPE.fullmatch(layer.name):
            return original(*args, **keywords)
        # With a slash at its end, a scope is taken as it is: without numbers, without parents.
        with tf.name_scope(f"{layer.name}/"):
            return original(*args, **keywords)

    return call


def _convolution(layer: keras.Layer, call: Callable[..., Any], x: Any) -> Any:
    """Compute the convolution as one operator.

    Keras computes a grouped convolution in an XLA function on the CPU; TensorFlow dilates by moving
    positions into the batch and back, between which int8 would round.
    """
    plain = layer.groups == 1 and set(layer.dilation_rate) == {1}
    if plain or layer.data_format != "channels_last":
        return call(x)
    x = tf.nn.conv2d(
        x,
        tf.convert_to_tensor(layer.kernel),
        list(layer.strides),
        layer.padding.upper(),
        dilations=list(layer.dilation_rate),
    )
    if layer.use_bias:
        x += tf.convert_to_tensor(layer.bias)
    return x if layer.activation is None else layer.activation(x)


CONVOLUTION: Form = (keras.layers.Conv2D, _convolution)
