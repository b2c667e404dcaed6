"""Learning rate schedules in optimizer steps."""

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
    """Return the learning rate of a recipe as a function of the optimizer step.

    Args:
        recipe: the recipe; its learning rate, schedule and duration are used.
        steps_per_epoch: optimizer steps per epoch; a fraction if gradients are accumulated.

    Raises:
        ValueError: If the warm-up does not end before the training.
    """
    in_steps = recipe.in_steps(steps_per_epoch)
    # With a batch size below the reference, the peak is below the unscaled rate: no warm-up.
    unscaled = min(1.0, recipe.optimizer.learning_rate / max(recipe.learning_rate, 1e-30))
    start = recipe.schedule.warmup_from
    start = unscaled if start == "unscaled" else start
    schedule = in_steps.as_dict()["schedule"]
    return RecipeSchedule(schedule, recipe.learning_rate, start, int(in_steps.duration))


def learning_rates(recipe: Recipe, steps_per_epoch: float, steps: Iterable[int]) -> list[float]:
    """Return the learning rates of `make_schedule` in double precision, computed with NumPy.

    Args:
        recipe: as in `make_schedule`.
        steps_per_epoch: as in `make_schedule`.
        steps: optimizer steps, counted from 0.

    Raises:
        ValueError: If the warm-up does not end before the training.
    """
    times = np.asarray(list(steps), np.float64)
    return [float(rate) for rate in make_schedule(recipe, steps_per_epoch).rate(times, np)]


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
        self._schedule = ScheduleConfig(**schedule)
        warmup = self._schedule.warmup
        if warmup and warmup >= duration:
            raise ValueError(
                "Expected a warm-up that ends before the training. Received: a warm-up of "
                f"{warmup:g} steps in a training of {duration:g}. "
                "Shorten both with `lasting`, or set `schedule.warmup`"
            )
        self._config: dict[str, Any] = {
            "schedule": dict(schedule),
            "peak": float(peak),
            "start": float(start),
            "duration": int(duration),
        }

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of an optimizer step as a float32 scalar."""
        return self.rate(keras.ops.cast(step, "float32"), keras.ops)

    def rate(self, step: Any, ops: Any) -> Any:
        """Return the learning rates at steps of any shape; `ops` is `numpy` or `keras.ops`."""
        schedule, start = self._schedule, self._config["start"]
        factor = _after_warmup(schedule, self._config["duration"], step, ops)
        if schedule.warmup:
            ramp = start + (1 - start) * (step / schedule.warmup)
            factor = ops.where(step < schedule.warmup, ramp, factor)
        return self._config["peak"] * factor

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as JSON-serializable data."""
        return dict(self._config)


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
