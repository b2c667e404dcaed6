"""Tracing of a model's layers in other forms with equal values, in scopes of their names."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

#: Class of layers, and the function that computes one, from the layer, its `call` and its input.
Form = tuple[type[keras.Layer], Callable[[Any, Callable[..., Any], Any], Any]]

#: Pattern of valid scope names in TensorFlow.
_SCOPE = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\-]*")


def leaf_layers(model: keras.Model) -> Iterator[keras.Layer]:
    """Yield the layers of a model and of its nested models, without these models.

    A layer that wraps others comes before them.
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
    # A model and its nested model may share their input layer.
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
    """Trace layers in the given forms within the context, each in a scope of its own name.

    The values of the outputs stay the same.
    """
    return with_calls(model, lambda layer: _traced_call(layer, forms))


def _traced_call(layer: keras.Layer, forms: Sequence[Form]) -> Callable[..., Any]:
    # Subclasses may compute something else: they keep their own form.
    found = [form for kind, form in forms if type(layer) is kind]
    original = functools.partial(found[0], layer, layer.call) if found else layer.call

    @functools.wraps(layer.call)
    def call(*args: Any, **keywords: Any) -> Any:
        if not _SCOPE.fullmatch(layer.name):
            return original(*args, **keywords)
        # A name with a slash at its end is used as it is, without a number or the outer scope.
        with tf.name_scope(f"{layer.name}/"):
            return original(*args, **keywords)

    return call


def _convolution(layer: keras.Layer, call: Callable[..., Any], x: Any) -> Any:
    """Compute a convolution as one operator.

    On the CPU, Keras computes a grouped convolution in an XLA function, and TensorFlow computes a
    dilated one by moving positions to the batch and back, which would add rounding steps in int8.
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
