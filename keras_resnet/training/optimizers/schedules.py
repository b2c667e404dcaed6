"""Learning rate schedules in optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras

from keras_resnet.training.optimizers.rates import Rates, arguments_of
from keras_resnet.training.recipes.recipe import Recipe


def make_schedule(recipe: Recipe, steps_per_epoch: float) -> RecipeSchedule:
    """Return the learning rate of a recipe as a function of the optimizer step.

    Args:
        recipe: the recipe; its learning rate, schedule and duration are used.
        steps_per_epoch: optimizer steps per epoch; a fraction if gradients are accumulated.

    Raises:
        ValueError: If the warm-up does not end before the training.
    """
    return RecipeSchedule(**arguments_of(recipe, steps_per_epoch))


@keras.saving.register_keras_serializable(package="keras_resnet")
class RecipeSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate schedule of a recipe, made by `make_schedule`.

    The value at step `s` is the learning rate of update `s`, counted from 0. The warm-up starts at
    its lowest rate at step 0 and reaches the peak at step `warmup`. Cosine and polynomial decay
    reach their end at step `duration`, one after the last step, and stay constant from there. A
    milestone between two steps is rounded to the nearer one.

    A plateau schedule is constant here, as it depends on the validation error; see `Plateau`. So is
    the warm-up of `low_until_error`.

    Rates are computed in float32, in which steps below 2^24 are exact, without loss of precision
    for the small rates at the end of a cosine.

    Args:
        schedule: fields of `ScheduleConfig` with all times in optimizer steps.
        peak: learning rate after the warm-up.
        start: learning rate at the start of the warm-up, as a factor of the peak.
        duration: optimizer steps of the whole training.

    Raises:
        ValueError: If the warm-up does not end before the training.
    """

    def __init__(
        self, schedule: Mapping[str, Any], peak: float, start: float, duration: int
    ) -> None:
        self._rates = Rates(schedule, peak, start, duration)
        self._config: dict[str, Any] = {
            "schedule": dict(schedule),
            "peak": float(peak),
            "start": float(start),
            "duration": int(duration),
        }

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of an optimizer step as a float32 scalar."""
        return self._rates.at(keras.ops.cast(step, "float32"), keras.ops)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as JSON-serializable data."""
        return dict(self._config)


class Plateau:
    """A factor that falls when the validation error stops falling (He et al. 2015, 3.4).

    Args:
        factor: factor of the learning rate at each change.
        patience: number of epochs without a lower error before a change, at least 1; counted from
            the last change.
        threshold: amount by which an error must be below the lowest one so far to count as lower.
    """

    def __init__(self, factor: float, patience: int, threshold: float) -> None:
        self._factor, self._patience, self._threshold = factor, patience, threshold
        self._best, self._waited, self._changes = math.inf, 0, 0

    def update(self, error: float) -> float:
        """Add the error of an epoch and return the factor of the peak from now on.

        Args:
            error: share of misclassified validation images, in [0, 1]. NaN never counts as lower.
        """
        if error < self._best - self._threshold:
            self._best, self._waited = error, 0
        else:
            self._waited += 1
        if self._waited >= self._patience:
            self._waited = 0
            self._changes += 1
        return self.factor

    @property
    def factor(self) -> float:
        """The current factor of the peak learning rate."""
        return self._factor**self._changes

    def state(self) -> dict[str, Any]:
        """Return the state for `restore` as JSON-serializable data."""
        best = None if self._best == math.inf else float(self._best)
        return {"best": best, "waited": self._waited, "changes": self._changes}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state` returned."""
        self._best = math.inf if state["best"] is None else float(state["best"])
        self._waited, self._changes = int(state["waited"]), int(state["changes"])
