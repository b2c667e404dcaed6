"""Selection of the layers that train, and the mode of batch normalization."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import keras

from keras_resnet.networks.graph import find_network, inputs_of
from keras_resnet.networks.names import levels_of, place_of
from keras_resnet.support.checks import check_choice
from keras_resnet.training.transfer.choices import BNMode

_HEAD = "head"
_BACKBONE = "backbone"


@dataclass(frozen=True)
class FreezeReport:
    """The trainable and frozen layers of a model.

    Attributes:
        levels: levels with trainable layers, from the stem to the head.
        trainable: names of the trainable layers with weights, in the order of the network.
        frozen: names of the frozen layers with weights.
        trainable_weights: number of scalar weights that are trained.
        frozen_weights: number of all other scalar weights, including moving statistics.
        bn: mode of batch normalization, `"frozen"` or `"training"`.
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
    """Freeze a network from the input up to and including a level, in place.

    Layers above the level do not change, except for batch normalization. If the model or a nested
    model was frozen as a whole with `model.trainable = False`, it is first made trainable with all
    its layers. Compile the model afterward. Layers that are shared with other models are frozen
    there, too.

    Args:
        model: a network of this package, or a model that contains one. Outer layers before the
            network count as part of its stem, all other outer layers as part of its head.
        upto: last level to freeze: `"stem"`, `"C2"` to `"C5"` as in `feature_extractor`, or
            `"backbone"` for everything except the head; None means the backbone.
        bn: `"frozen"`: all batch normalization of the model, including that in trainable levels,
            keeps its moving statistics, scale and shift and normalizes with them, also after saving
            and loading. `"training"`: batch normalization in trainable levels is trained.

    Returns:
        The layers that are now trainable and frozen.

    Raises:
        ValueError: If the level or mode does not exist, or the model contains no network of this
            package.
    """
    levels = _levels(model)
    names = [*levels][:-1]
    chosen = _BACKBONE if upto is None else upto
    _check("upto", chosen, [*names, _BACKBONE], bn)
    end = [*names, _BACKBONE].index(chosen) + 1
    _switch_on(model, keep_layers=False)
    for layer in itertools.chain(*(levels[name] for name in names[:end])):
        layer.trainable = False
    # The batch normalization of levels that were frozen before stays frozen.
    behind = [levels[name] for name in [*names[end:], _HEAD] if _trains(levels[name])]
    _set_normalizations(levels, behind, bn)
    return _report(levels, bn)


def unfreeze(
    model: keras.Model, downto: str | None = None, *, bn: BNMode = "frozen"
) -> FreezeReport:
    """Make a network trainable from the head down to and including a level, in place.

    Layers below the level do not change, except for batch normalization. Compile the model
    afterward.

    Args:
        model: as for `freeze`.
        downto: last level to make trainable: `"head"` (if there is one), `"C5"` to `"C2"` or
            `"stem"`; None or `"backbone"` means all levels.
        bn: as for `freeze`. With `"training"`, batch normalization below the level does not change.

    Returns:
        The layers that are now trainable and frozen.

    Raises:
        ValueError: If the level or mode does not exist, or the model contains no network of this
            package.
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
    """Return the layers of a flat network by level: `"stem"`, `"C2"`, …, `"head"` (may be empty).

    The level follows from the name of a layer. A layer with another name belongs to the first level
    that it leads to, or to the head if it leads to none.
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
    """Return the layers by level for a network, or a model that contains one."""
    network = find_network(model)
    levels = split_levels(network)
    if network is model:
        return levels
    if isinstance(model, keras.Sequential):
        order = [layer.name for layer in model.layers]
        inputs = {name: order[max(0, i - 1) : i] for i, name in enumerate(order)}
    else:
        # The graph of a subclassed model is not known.
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
    """Return the place of every layer: its known place, or the lowest place that it leads to.

    `inputs` maps layers to the layers that they take as inputs, in topological order. A layer that
    leads to no known place is at `default`.
    """
    reached: dict[str, int] = {}
    for name in reversed(list(inputs)):
        reached[name] = known.get(name, reached.get(name, default))
        for before in inputs[name]:
            reached[before] = min(reached.get(before, default), reached[name])
    return reached


def _check(argument: str, level: str | None, known: list[str], bn: str) -> None:
    if level not in known:
        raise ValueError(
            f"Expected `{argument}` to be one of the levels of this model: {', '.join(known)}. "
            f"Received: {argument}={level!r}"
        )
    check_choice("bn", bn, get_args(BNMode))


def _switch_on(model: keras.Model, *, keep_layers: bool) -> None:
    """Set `trainable` of the model and of nested models, which overrides that of their layers.

    Keras sets it for all layers of the model as well, which is undone with `keep_layers`.
    """
    for container in _all_layers(model):
        if isinstance(container, keras.Model) and not container.trainable:
            before = [(layer, layer.trainable) for layer in _leaves(container)]
            container.trainable = True
            for layer, trainable in before if keep_layers else ():
                layer.trainable = trainable


def _all_layers(layer: keras.Layer) -> Iterator[keras.Layer]:
    """Yield the layer and, if it is a model, the layers inside it."""
    yield layer
    for inner in layer.layers if isinstance(layer, keras.Model) else ():
        yield from _all_layers(inner)


def _leaves(layer: keras.Layer) -> list[keras.Layer]:
    return [inner for inner in _all_layers(layer) if not isinstance(inner, keras.Model)]


def _set_normalizations(
    levels: Mapping[str, list[keras.Layer]], part: Iterable[list[keras.Layer]], bn: BNMode
) -> None:
    """Freeze all batch normalization, or make that of `part` trainable."""
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
