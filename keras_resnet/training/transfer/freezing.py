"""Selection of the layers that train, and the mode of batch normalization."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import keras

from keras_resnet.networks.graph import find_network, inputs_of
from keras_resnet.networks.names import levels_of, place_of
from keras_resnet.support.checks import check_choice

BNMode = Literal["frozen", "training"]

_HEAD = "head"
_BACKBONE = "backbone"


@dataclass(frozen=True)
class FreezeReport:
    """The layers that train from now on.

    Attributes:
        levels: those in which something trains, from the stem to the head.
        trainable: names of the layers that train, from the input on.
        frozen: names of the layers with weights that do not.
        trainable_weights: number of weights, counted one by one, that training changes by
            gradients.
        frozen_weights: number of all others, moving statistics included.
        bn: what batch normalization does.
    """

    levels: tuple[str, ...]
    trainable: tuple[str, ...]
    frozen: tuple[str, ...]
    trainable_weights: int
    frozen_weights: int
    bn: BNMode

    def __str__(self) -> str:
        layers = len(self.trainable) + len(self.frozen)
        weights = self.trainable_weights + self.frozen_weights
        first = (
            f"Trains {', '.join(self.levels)}: {len(self.trainable)} of {layers} layers with "
            f"{self.trainable_weights:,} of {weights:,} weights."
            if self.trainable
            else f"Trains nothing: all {layers} layers with {weights:,} weights are frozen."
        )
        frozen = "is frozen everywhere and keeps its statistics"
        does = frozen if self.bn == "frozen" else "trains with the layers around it"
        return f"{first}\nBatch normalization {does}."


def freeze(model: keras.Model, upto: str | None = None, *, bn: BNMode = "frozen") -> FreezeReport:
    """Make a network untrainable from the input up to and including a level, in place.

    What lies behind the level stays as it is, batch normalization apart. A model, or a model in it,
    that was switched off as a whole by `model.trainable = False`, is switched on first, with all
    its layers. Compile the model afterwards. Layers that other models share are frozen there, too.

    Args:
        model: a network of this package, or a model with one inside; layers that the network gets
            its input from count as its stem, other layers outside as its head.
        upto: `"stem"`, `"C2"` to `"C5"` as in `feature_extractor`, or `"backbone"`, all but the
            head; None means the backbone.
        bn: `"frozen"`: every BatchNormalization of the model, in the part that trains as well,
            keeps its moving statistics, scale and shift, and normalizes with them; so do models
            that are saved and loaded. `"training"`: in the levels that train it does as usual.

    Returns:
        What trains from now on.

    Raises:
        ValueError: If there is no such level or mode, or no network of this package.
    """
    levels = _levels(model)
    names = [*levels][:-1]
    chosen = _BACKBONE if upto is None else upto
    _check("upto", chosen, [*names, _BACKBONE], bn)
    end = [*names, _BACKBONE].index(chosen) + 1
    _switch_on(model, keep_layers=False)
    for layer in itertools.chain(*(levels[name] for name in names[:end])):
        layer.trainable = False
    # A level that was frozen before does not begin to train by way of its normalizations.
    behind = [levels[name] for name in [*names[end:], _HEAD] if _trains(levels[name])]
    _set_normalizations(levels, behind, bn)
    return _report(levels, bn)


def unfreeze(
    model: keras.Model, downto: str | None = None, *, bn: BNMode = "frozen"
) -> FreezeReport:
    """Make a network trainable from the head down to and including a level, in place.

    Deeper layers stay as they are, batch normalization apart. Compile the model afterwards.

    Args:
        model: as for `freeze`.
        downto: `"head"` (where there is one), `"C5"` to `"C2"` or `"stem"`; None, like
            `"backbone"`, means everything.
        bn: as for `freeze`. With `"training"`, that of deeper layers stays as it is.

    Returns:
        What trains from now on.

    Raises:
        ValueError: If there is no such level or mode, or no network of this package.
    """
    levels = _levels(model)
    names = [*levels][::-1]
    known = names if levels[_HEAD] else names[1:]
    chosen = "stem" if downto in (None, _BACKBONE) else downto
    _check("downto", chosen, [*known, _BACKBONE], bn)
    _switch_on(model, keep_layers=True)
    part = [levels[name] for name in names[: names.index(chosen) + 1]]
    for layer in itertools.chain(*part):
        layer.trainable = True
    _set_normalizations(levels, part, bn)
    return _report(levels, bn)


def split_levels(network: keras.Model) -> dict[str, list[keras.Layer]]:
    """Return the layers of a flat network by level: `"stem"`, `"C2"` and so on, `"head"` (maybe empty).

    Names decide. A layer with a name of its own belongs to the first level that it leads to; one
    that leads to none belongs to the head.
    """
    named = levels_of(layer.name for layer in network.layers)
    stages = sorted({place.stage for place in map(place_of, named) if place})
    names = ["stem", *(f"C{stage}" for stage in stages), _HEAD]
    known = {layer: names.index(level) for layer, level in named.items() if level}
    places = _places(inputs_of(network), known, len(names) - 1)
    levels: dict[str, list[keras.Layer]] = {name: [] for name in names}
    for layer in network.layers:
        levels[names[places[layer.name]]].append(layer)
    return levels


def _levels(model: keras.Model) -> dict[str, list[keras.Layer]]:
    """Return the same for a model with the network inside."""
    network = find_network(model)
    levels = split_levels(network)
    if network is model:
        return levels
    if isinstance(model, keras.Sequential):
        order = [layer.name for layer in model.layers]
        inputs = {name: order[max(0, i - 1) : i] for i, name in enumerate(order)}
    else:
        # The graph of a subclass is in its code.
        inputs = inputs_of(model) if hasattr(model, "operations") else {}
    places = _places(inputs, {network.name: 0}, 1)
    before: list[keras.Layer] = []
    for layer in model.layers:
        if layer is not network:
            part = before if places.get(layer.name, 1) == 0 else levels[_HEAD]
            part.extend(_leaves(layer))
    levels["stem"] = before + levels["stem"]
    return levels


def _places(
    inputs: Mapping[str, Sequence[str]], known: Mapping[str, int], default: int
) -> dict[str, int]:
    """Return the place of every layer: the one that is known, or the lowest one that it leads to.

    `inputs` has the layers that each takes its input from, in topological order. What leads
    nowhere is at the place `default`.
    """
    reached: dict[str, int] = {}
    for name in reversed(list(inputs)):
        reached[name] = known.get(name, reached.get(name, default))
        for source in inputs[name]:
            reached[source] = min(reached.get(source, default), reached[name])
    return reached


def _check(argument: str, level: str | None, known: list[str], bn: str) -> None:
    if level not in known:
        raise ValueError(
            f"Expected `{argument}` to be one of the levels of this model: {', '.join(known)}. "
            f"Received: {argument}={level!r}"
        )
    check_choice("bn", bn, get_args(BNMode))


def _switch_on(model: keras.Model, *, keep_layers: bool) -> None:
    """Set `trainable` of the model and of models in it, which counts before their layers' own.

    Keras sets all layers along with a model.
    """
    for container in _all_layers(model):
        if isinstance(container, keras.Model) and not container.trainable:
            before = [(layer, layer.trainable) for layer in _leaves(container)]
            container.trainable = True
            for layer, trainable in before if keep_layers else ():
                layer.trainable = trainable


def _all_layers(layer: keras.Layer) -> Iterator[keras.Layer]:
    """Yield the layer, and those inside it, if it is a model."""
    yield layer
    for inner in layer.layers if isinstance(layer, keras.Model) else ():
        yield from _all_layers(inner)


def _leaves(layer: keras.Layer) -> list[keras.Layer]:
    return [inner for inner in _all_layers(layer) if not isinstance(inner, keras.Model)]


def _set_normalizations(
    levels: Mapping[str, list[keras.Layer]], part: Iterable[list[keras.Layer]], bn: BNMode
) -> None:
    """Freeze all batch normalization, or lets that of `part` train."""
    for layer in itertools.chain(*(levels.values() if bn == "frozen" else part)):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = bn == "training"


def _trains(layers: Iterable[keras.Layer]) -> bool:
    return any(
        layer.trainable_weights or (layer.trainable and not layer.built)
        for layer in layers
        if not isinstance(layer, keras.layers.BatchNormalization)
    )


def _report(levels: Mapping[str, list[keras.Layer]], bn: BNMode) -> FreezeReport:
    weighted = [layer for layers in levels.values() for layer in layers if layer.weights]
    training = [layer for layer in weighted if layer.trainable_weights]
    trained = sum(math.prod(w.shape) for layer in training for w in layer.trainable_weights)
    return FreezeReport(
        levels=tuple(name for name, layers in levels.items() if {*layers}.intersection(training)),
        trainable=tuple(layer.name for layer in training),
        frozen=tuple(layer.name for layer in weighted if not layer.trainable_weights),
        trainable_weights=trained,
        frozen_weights=sum(layer.count_params() for layer in weighted) - trained,
        bn=bn,
    )
