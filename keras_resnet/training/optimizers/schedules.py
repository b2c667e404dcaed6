"""Learning-rate schedules, in optimizer steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_resnet.training.recipes.parts import ScheduleConfig
from keras_resnet.training.recipes.recipe import Recipe


def total_steps(recipe: Recipe, steps_per_epoch: float) -> int:
    """Return the number of optimizer steps of a recipe."""
    return int(recipe.in_steps(steps_per_epoch).duration)


def make_schedule(recipe: Recipe, steps_per_epoch: float) -> RecipeSchedule:
    """The learning rate of a recipe as a function of the optimizer step.

    Args:
        recipe: whose peak, schedule and duration count.
        steps_per_epoch: optimizer steps in an epoch; a fraction where several batches make a step.

    Raises:
        ValueError: the warm-up does not end before the training.
    """
    in_steps = recipe.in_steps(steps_per_epoch)
    # A batch below the reference has a peak below the unscaled rate: no warm-up then.
    unscaled = min(1.0, recipe.optimizer.learning_rate / max(recipe.learning_rate, 1e-30))
    start = recipe.schedule.warmup_from
    start = unscaled if start == "unscaled" else start
    schedule = in_steps.as_dict()["schedule"]
    return RecipeSchedule(schedule, recipe.learning_rate, start, int(in_steps.duration))


def learning_rates(recipe: Recipe, steps_per_epoch: float, steps: Iterable[int]) -> list[float]:
    """The learning rates of `make_schedule`, in double precision, without a backend.

    Args:
        recipe: as in `make_schedule`.
        steps_per_epoch: as in `make_schedule`.
        steps: numbers of optimizer steps, from 0.

    Raises:
        ValueError: the warm-up does not end before the training.
    """
    times = np.asarray(list(steps), np.float64)
    return [float(rate) for rate in make_schedule(recipe, steps_per_epoch).rate(times, np)]


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
        self._schedule = ScheduleConfig(**schedule)
        warmup = self._schedule.warmup
        if warmup and warmup >= duration:
            raise ValueError(
                "Expected a warm-up that ends before the training. Received: a warm-up of "
                f"{warmup:g} steps, a training of {duration:g}. "
                "Shorten both with `lasting`, or set `schedule.warmup`"
            )
        self._config: dict[str, Any] = {
            "schedule": dict(schedule),
            "peak": float(peak),
            "start": float(start),
            "duration": int(duration),
        }

    def __call__(self, step: Any) -> Any:
        """The learning rate, a float32 scalar, of the optimizer step `step`."""
        return self.rate(keras.ops.cast(step, "float32"), keras.ops)

    def rate(self, step: Any, ops: Any) -> Any:
        """The learning rates at steps of any shape, floats; `ops` is `numpy` or `keras.ops`."""
        schedule, start = self._schedule, self._config["start"]
        factor = _after_warmup(schedule, self._config["duration"], step, ops)
        if schedule.warmup:
            ramp = start + (1 - start) * (step / schedule.warmup)
            factor = ops.where(step < schedule.warmup, ramp, factor)
        return self._config["peak"] * factor

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, fit for JSON."""
        return dict(self._config)


def _after_warmup(schedule: ScheduleConfig, duration: int, step: Any, ops: Any) -> Any:
    """Factors of the peak."""
    if schedule.name == "step":
        # Half a step away from the edges, rounding cannot move them.
        return ops.power(schedule.factor, ops.floor((step + 0.5) / schedule.every))
    if schedule.name == "multi-step":
        factor = ops.ones_like(step)
        for count, milestone in enumerate(schedule.milestones, 1):
            factor = ops.where(step + 0.5 >= milestone, schedule.factor**count, factor)
        return factor
    if schedule.name == "piecewise-linear":
        return _through(schedule.points, step, ops)
    if schedule.name in ("cosine", "polynomial"):
        begin = 0.0 if schedule.counts_warmup else schedule.warmup
        left = ops.clip((duration - step) / (duration - begin), 0.0, 1.0)
        if schedule.name == "polynomial":
            share = ops.power(left, schedule.power)
        else:
            # (1 + cos(pi * done)) / 2, without the loss of digits near the end.
            share = ops.square(ops.sin(math.pi / 2 * left))
        return schedule.end + (1 - schedule.end) * share
    return ops.ones_like(step)


def _through(points: tuple[tuple[float, float], ...], step: Any, ops: Any) -> Any:
    factor = points[0][1] * ops.ones_like(step)
    for (time, value), (next_time, next_value) in itertools.pairwise(points):
        # Both shares from whole steps: one minus the other would lose digits near the end.
        length = next_time - time
        gone = ops.clip((step - time) / length, 0.0, 1.0)
        left = ops.clip((next_time - step) / length, 0.0, 1.0)
        factor = ops.where(step >= time, value * left + next_value * gone, factor)
    return factor


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
