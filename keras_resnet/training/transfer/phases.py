"""The phases of fine-tuning: which layers train when, and how fast."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import keras

from keras_resnet.training.optimizers.groups import rate_multipliers
from keras_resnet.training.recipes.recipe import Recipe, override
from keras_resnet.training.transfer.freezing import BNMode, FreezeReport, freeze, unfreeze


@dataclass(frozen=True)
class Phase:
    """A part of fine-tuning, with a learning-rate schedule of its own.

    Attributes:
        downto: what trains: from the head down to this level: `"head"`, `"C5"` to `"C2"`,
            `"stem"` or `"backbone"`, which is everything.
        epochs: how long.
        rate: what the recipe's learning rate is multiplied by.

    Raises:
        ValueError: If `epochs` or `rate` is not positive.
    """

    downto: str
    epochs: float
    rate: float = 1.0

    def __post_init__(self) -> None:
        for name in ("epochs", "rate"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
                raise ValueError(f"Expected `{name}` of a phase above 0. Received: {value!r}")


#: The new head first, as its gradients would spoil what is below; then everything, gently.
PHASES = (Phase("head", 3), Phase("backbone", 7, 0.1))


def thaw(network: keras.Model, phase: Phase, bn: BNMode) -> FreezeReport:
    """Make those layers trainable that train in a phase, and no others."""
    freeze(network, "backbone", bn=bn)
    return unfreeze(network, phase.downto, bn=bn)


def phase_recipes(
    network: keras.Model, recipe: Recipe, phases: Sequence[Phase], bn: BNMode
) -> list[Recipe]:
    """Return the recipe of each phase: its learning rate, and the rate groups that train in it.

    Raises:
        ValueError: If a phase goes down to a level that the network lacks, or a rate group trains
            in no phase.
    """
    trained = []
    for phase in phases:
        thaw(network, phase, bn)
        trained.append([weight.path for weight in network.trainable_weights])
    groups = recipe.optimizer.rate_groups
    rate_multipliers(list(dict.fromkeys(itertools.chain(*trained))), groups)
    result = []
    for phase, paths in zip(phases, trained, strict=True):
        # In their order, as the first key that matches counts.
        reached: dict[str, float] = {}
        for key, factor in groups.items():
            with contextlib.suppress(ValueError):
                rate_multipliers(paths, {**reached, key: factor})
                reached[key] = factor
        rate = recipe.optimizer.learning_rate * phase.rate
        changes = {"optimizer.learning_rate": rate, "optimizer.rate_groups": reached}
        result.append(override(recipe, changes))
    return result
