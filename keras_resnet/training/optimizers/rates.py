"""Learning rates of recipes as functions of the optimizer step, without Keras."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_resnet.training.recipes.parts import ScheduleConfig
from keras_resnet.training.recipes.recipe import Recipe


def total_steps(recipe: Recipe, steps_per_epoch: float) -> int:
    """Return the number of optimizer steps of a recipe."""
    return int(recipe.in_steps(steps_per_epoch).duration)


def arguments_of(recipe: Recipe, steps_per_epoch: float) -> dict[str, Any]:
    """Return the arguments of `Rates` for a recipe.

    Args:
        recipe: the recipe, of which the peak, the schedule and the duration are used.
        steps_per_epoch: optimizer steps in an epoch; a fraction if a step takes several batches.
    """
    in_steps = recipe.in_steps(steps_per_epoch)
    # With a batch size below the reference, the peak is below the unscaled rate: no warm-up.
    unscaled = min(1.0, recipe.optimizer.learning_rate / max(recipe.learning_rate, 1e-30))
    start = recipe.schedule.warmup_from
    return {
        "schedule": in_steps.as_dict()["schedule"],
        "peak": recipe.learning_rate,
        "start": unscaled if start == "unscaled" else start,
        "duration": int(in_steps.duration),
    }


def learning_rates(recipe: Recipe, steps_per_epoch: float, steps: Iterable[int]) -> list[float]:
    """Return the learning rates of `schedules.make_schedule` in double precision.

    Args:
        recipe: as in `arguments_of`.
        steps_per_epoch: as in `arguments_of`.
        steps: optimizer steps, counted from 0.

    Raises:
        ValueError: If the warm-up does not end before the training.
    """
    times = np.asarray(list(steps), np.float64)
    return [float(rate) for rate in Rates(**arguments_of(recipe, steps_per_epoch)).at(times, np)]


class Rates:
    """The learning rate as a function of the optimizer step.

    It takes the arguments of `schedules.RecipeSchedule`, and raises the same errors.
    """

    def __init__(
        self, schedule: Mapping[str, Any], peak: float, start: float, duration: int
    ) -> None:
        self._schedule = ScheduleConfig(**schedule)
        self._peak, self._start = float(peak), float(start)
        self._duration = duration
        warmup = self._schedule.warmup
        if warmup and warmup >= duration:
            raise ValueError(
                "Expected a warm-up that ends before the training. Received: a warm-up of "
                f"{warmup:g} steps in a training of {duration:g}. "
                "Shorten both with `lasting`, or set `schedule.warmup`"
            )

    def at(self, step: Any, ops: Any) -> Any:
        """Return the learning rates at `step`, floats of any shape; `ops`: `numpy`, `keras.ops`."""
        schedule = self._schedule
        factor = _after_warmup(schedule, self._duration, step, ops)
        if schedule.warmup:
            ramp = self._start + (1 - self._start) * (step / schedule.warmup)
            factor = ops.where(step < schedule.warmup, ramp, factor)
        return self._peak * factor


def _after_warmup(schedule: ScheduleConfig, duration: int, step: Any, ops: Any) -> Any:
    """Return the factors of the peak at some steps after the warm-up."""
    if schedule.name == "step":
        # Half a step away from the edges, rounding errors have no effect.
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
            # (1 + cos(pi * done)) / 2, without loss of precision near the end.
            share = ops.square(ops.sin(math.pi / 2 * left))
        return schedule.end + (1 - schedule.end) * share
    return ops.ones_like(step)


def _through(points: tuple[tuple[float, float], ...], step: Any, ops: Any) -> Any:
    """Interpolate linearly between points of a step and a factor."""
    factor = points[0][1] * ops.ones_like(step)
    for (time, value), (next_time, next_value) in itertools.pairwise(points):
        # Both shares are computed from steps: `1 - gone` would lose precision near the end.
        length = next_time - time
        gone = ops.clip((step - time) / length, 0.0, 1.0)
        left = ops.clip((next_time - step) / length, 0.0, 1.0)
        factor = ops.where(step >= time, value * left + next_value * gone, factor)
    return factor
