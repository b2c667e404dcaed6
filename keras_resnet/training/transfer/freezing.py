"""Which layers of a network train, and what batch normalisation does meanwhile."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import keras

from keras_resnet.networks.graph import find_network, inputs_of
from keras_resnet.networks.names import levels_of

BNMode = Literal["frozen", "training"]

_HEAD = "head"
_BACKBONE = "backbone"


@dataclass(frozen=True)
class FreezeReport:
    """What trains from now on.

    Attributes:
        levels: those in which something trains, from the stem to the head.
        trainable: names of the layers that train, from the input on.
        frozen: names of the layers with weights that do not.
        trainable_weights: number of weights, counted one by one, that training changes by
            gradients.
        frozen_weights: number of all others, moving statistics included.
        bn: what batch normalisation does.
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
        if self.trainable:
            first = (
                f"Trains {', '.join(self.levels)}: {len(self.trainable)} of {layers} layers with "
                f"{self.trainable_weights:,} of {weights:,} weights."
            )
        else:
            first = f"Trains nothing: all {layers} layers with {weights:,} weights are frozen."
        if self.bn == "frozen":
            return f"{first}\nBatch normalisation is frozen everywhere and keeps its statistics."
        return f"{first}\nBatch normalisation trains with the layers around it."


def freeze(model: keras.Model, upto: str | None = None, *, bn: BNMode = "frozen") -> FreezeReport:
    """Makes a network untrainable from the input up to and including a level, in place.

    What lies behind the level stays as it is, batch normalisation apart. A model, or a model in it,
    that was switched off as a whole by `model.trainable = False`, is switched on first, with all
    its layers. Compile the model afterwards. Layers that other models share are frozen there, too.

    Args:
        model: a network of this package, or a model with one inside; layers that the network gets
            its input from count as its stem, other layers outside as its head.
        upto: `"stem"`, `"C2"` to `"C5"` as in `feature_extractor`, or `"backbone"`, all but the
            head; None means the backbone.
        bn: `"frozen"`: every BatchNormalization of the model, in the part that trains as well,
            keeps its moving statistics, scale and shift, and normalises with them; so do models
            that are saved and loaded. `"training"`: in the levels that train it does as usual.

    Returns:
        What trains from now on.

    Raises:
        ValueError: there is no such level or mode, or no network of this package.
    """
    levels = _levels(model)
    names = [*levels][:-1]
    end = 1 + _find("upto", _BACKBONE if upto is None else upto, [*names, _BACKBONE])
    _check_mode(bn)
    _switch_on(model, keep_layers=False)
    for name in names[:end]:
        for layer in levels[name]:
            layer.trainable = False
    # A level that was frozen before does not begin to train by way of its normalisations.
    behind = [levels[name] for name in [*names[end:], _HEAD] if _trains(levels[name])]
    _set_normalisations(levels, behind, bn)
    return _report(levels, bn)


def unfreeze(
    model: keras.Model, downto: str | None = None, *, bn: BNMode = "frozen"
) -> FreezeReport:
    """Makes a network trainable from the head down to and including a level, in place.

    Deeper layers stay as they are, batch normalisation apart. Compile the model afterwards.

    Args:
        model: as for `freeze`.
        downto: `"head"` (where there is one), `"C5"` to `"C2"` or `"stem"`; None, like
            `"backbone"`, means everything.
        bn: as for `freeze`. With `"training"`, that of deeper layers stays as it is.

    Returns:
        What trains from now on.

    Raises:
        ValueError: there is no such level or mode, or no network of this package.
    """
    levels = _levels(model)
    names = [*levels][::-1]
    known = names if levels[_HEAD] else names[1:]
    chosen = "stem" if downto in (None, _BACKBONE) else downto
    _find("downto", chosen, [*known, _BACKBONE])
    _check_mode(bn)
    _switch_on(model, keep_layers=True)
    part = [levels[name] for name in names[: names.index(chosen) + 1]]
    for layer in itertools.chain(*part):
        layer.trainable = True
    _set_normalisations(levels, part, bn)
    return _report(levels, bn)


def split_levels(network: keras.Model) -> dict[str, list[keras.Layer]]:
    """The layers of a flat network by level: `"stem"`, `"C2"` and so on, `"head"` (maybe empty).

    Names decide. A layer with a name of its own belongs to the first level that it leads to; one
    that leads to none belongs to the head.
    """
    named = levels_of(layer.name for layer in network.layers)
    names = [
        "stem",
        *sorted({level for level in named.values() if level and level[0] == "C"}),
        _HEAD,
    ]
    known = {layer: names.index(level) for layer, level in named.items() if level}
    places = _places(inputs_of(network), known, len(names) - 1)
    levels: dict[str, list[keras.Layer]] = {name: [] for name in names}
    for layer in network.layers:
        levels[names[places[layer.name]]].append(layer)
    return levels


def _levels(model: keras.Model) -> dict[str, list[keras.Layer]]:
    """The same for a model with the network inside."""
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
    """The place of every layer: its own, or the lowest one that it leads to.

    Args:
        inputs: layer -> layers it takes its input from, in topological order.
        known: layer -> its place.
        default: the place of what leads nowhere.
    """
    reached: dict[str, int] = {}
    for name in reversed(list(inputs)):
        reached[name] = known.get(name, reached.get(name, default))
        for source in inputs[name]:
            reached[source] = min(reached.get(source, default), reached[name])
    return reached


def _find(argument: str, level: str | None, known: list[str]) -> int:
    if level not in known:
        raise ValueError(
            f"Expected `{argument}` to be one of the levels of this model: {', '.join(known)}. "
            f"Received: {argument}={level!r}"
        )
    return known.index(level)


def _check_mode(bn: str) -> None:
    if bn not in get_args(BNMode):
        raise ValueError(f"Expected `bn` to be 'frozen' or 'training'. Received: bn={bn!r}")


def _switch_on(model: keras.Model, *, keep_layers: bool) -> None:
    """Sets `trainable` of the model and of models in it, which counts before their layers' own.

    Keras sets all layers along with a model.
    """
    for container in _containers(model):
        if not container.trainable:
            before = [(layer, layer.trainable) for layer in _leaves(container)]
            container.trainable = True
            for layer, trainable in before if keep_layers else ():
                layer.trainable = trainable


def _containers(layer: keras.Layer) -> Iterator[keras.Model]:
    if isinstance(layer, keras.Model):
        yield layer
        for inner in layer.layers:
            yield from _containers(inner)


def _leaves(layer: keras.Layer) -> Iterator[keras.Layer]:
    if isinstance(layer, keras.Model):
        for inner in layer.layers:
            yield from _leaves(inner)
    else:
        yield layer


def _set_normalisations(
    levels: Mapping[str, list[keras.Layer]], part: Iterable[list[keras.Layer]], bn: BNMode
) -> None:
    """Freezes all batch normalisation, or lets that of `part` train."""
    for layers in levels.values() if bn == "frozen" else part:
        for layer in layers:
            if _is_bn(layer):
                layer.trainable = bn == "training"


def _is_bn(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def _trains(layers: Iterable[keras.Layer]) -> bool:
    return any(
        layer.trainable_weights or (layer.trainable and not layer.built)
        for layer in layers
        if not _is_bn(layer)
    )


def _report(levels: Mapping[str, list[keras.Layer]], bn: BNMode) -> FreezeReport:
    weighted = [layer for layers in levels.values() for layer in layers if layer.weights]
    training = [layer for layer in weighted if layer.trainable_weights]
    return FreezeReport(
        tuple(
            name
            for name, layers in levels.items()
            if any(layer.trainable_weights for layer in layers)
        ),
        tuple(layer.name for layer in training),
        tuple(layer.name for layer in weighted if not layer.trainable_weights),
        _count(weight for layer in training for weight in layer.trainable_weights),
        _count(weight for layer in weighted for weight in layer.non_trainable_weights),
        bn,
    )


def _count(weights: Iterable[keras.Variable]) -> int:
    return sum(math.prod(weight.shape) for weight in weights)
