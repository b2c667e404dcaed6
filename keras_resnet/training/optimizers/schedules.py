"""Learning-rate schedules, in optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras

from keras_resnet.training.optimizers.rates import Rates, arguments_of
from keras_resnet.training.recipes.recipe import Recipe


def make_schedule(recipe: Recipe, steps_per_epoch: float) -> RecipeSchedule:
    """The learning rate of a recipe as a function of the optimizer step.

    Args:
        recipe: whose peak, schedule and duration count.
        steps_per_epoch: optimizer steps in an epoch; a fraction where several batches make a step.

    Raises:
        ValueError: the warm-up does not end before the training.
    """
    return RecipeSchedule(**arguments_of(recipe, steps_per_epoch))


@keras.saving.register_keras_serializable(package="keras_resnet")
class RecipeSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of a recipe; see `make_schedule`, which makes it.

    The value at step `s` is the rate of update number `s`, from 0. The warm-up starts at its lowest
    rate with step 0 and reaches the peak at step `warmup`, if nothing has lowered it by then;
    cosine and polynomial decay would reach their end at step `duration`, one after the last, and
    stay there. A milestone between two steps counts from the nearer one.

    A plateau schedule is constant here: what lowers it, the validation error, is not known to a
    function of the step (see `Plateau`). The same goes for `low_until_error`.

    It is computed in float32, where steps below 2^24 are exact, and small rates at the end of a
    cosine are as precise as large ones.

    Args:
        schedule: fields of `ScheduleConfig` with all times in optimizer steps.
        peak: the learning rate after the warm-up.
        start: where the warm-up starts, as a factor of the peak.
        duration: optimizer steps of the whole training.

    Raises:
        ValueError: the warm-up does not end before the training.
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
        """The learning rate, a float32 scalar, of the optimizer step `step`."""
        return self._rates.at(keras.ops.cast(step, "float32"), keras.ops)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, fit for JSON."""
        return dict(self._config)


class Plateau:
    """Lowers the learning rate when the validation error stops falling (He et al. 2015, 3.4).

    Args:
        factor: the learning rate is multiplied by it each time.
        patience: so many epochs without a lower error are waited for, at least 1; the count starts
            anew after each change.
        threshold: an error counts as lower if it is lower than the best by more than this.
    """

    def __init__(self, factor: float, patience: int, threshold: float) -> None:
        self._factor, self._patience, self._threshold = factor, patience, threshold
        self._best, self._waited, self._changes = math.inf, 0, 0

    def update(self, error: float) -> float:
        """Takes the error of another epoch; returns the factor of the peak from now on.

        Args:
            error: share of the validation images that are misclassified. NaN is not lower than
                anything.
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
        """The factor of the peak."""
        return self._factor**self._changes

    def state(self) -> dict[str, Any]:
        """The state for `restore`, fit for JSON."""
        best = None if self._best == math.inf else float(self._best)
        return {"best": best, "waited": self._waited, "changes": self._changes}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` returned."""
        self._best = math.inf if state["best"] is None else float(state["best"])
        self._waited, self._changes = int(state["waited"]), int(state["changes"])
