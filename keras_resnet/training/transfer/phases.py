"""The phases of fine-tuning, in which different layers are trained."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence

import keras

from keras_resnet.training.optimizers.groups import rate_multipliers
from keras_resnet.training.recipes.recipe import Recipe, override
from keras_resnet.training.transfer.choices import BNMode, Phase
from keras_resnet.training.transfer.freezing import FreezeReport, freeze, unfreeze


def thaw(network: keras.Model, phase: Phase, bn: BNMode) -> FreezeReport:
    """Make exactly the layers of a phase trainable."""
    freeze(network, "backbone", bn=bn)
    return unfreeze(network, phase.downto, bn=bn)


def phase_recipes(
    network: keras.Model, recipe: Recipe, phases: Sequence[Phase], bn: BNMode
) -> list[Recipe]:
    """Return the recipe of each phase, with its learning rate and the rate groups it trains.

    Raises:
        ValueError: If the network lacks the level of a phase, or a rate group is trained in no
            phase.
    """
    trained = []
    for phase in phases:
        thaw(network, phase, bn)
        trained.append([weight.path for weight in network.trainable_weights])
    groups = recipe.optimizer.rate_groups
    rate_multipliers(list(dict.fromkeys(itertools.chain(*trained))), groups)
    result = []
    for phase, paths in zip(phases, trained, strict=True):
        # In the given order, as the first matching key counts.
        reached: dict[str, float] = {}
        for key, factor in groups.items():
            with contextlib.suppress(ValueError):
                rate_multipliers(paths, {**reached, key: factor})
                reached[key] = factor
        rate = recipe.optimizer.learning_rate * phase.rate
        changes = {"optimizer.learning_rate": rate, "optimizer.rate_groups": reached}
        result.append(override(recipe, changes))
    return result
