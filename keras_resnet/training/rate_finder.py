"""Learning rate finder: a short training with increasing rates (Smith 2017, arXiv:1506.01186)."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure

from keras_resnet.data import BadRecords, DataConfig, Source, training_batches
from keras_resnet.support.checks import check_integer, check_number
from keras_resnet.support.files import partial_directory, publish
from keras_resnet.support.progress import Progress, unseen
from keras_resnet.training.losses import TrainedModel
from keras_resnet.training.recipes.recipe import Recipe
from keras_resnet.training.recipes.table import find_recipe
from keras_resnet.training.run.copy import compile_copy, pull_to_start, training_copy
from keras_resnet.training.run.fitting import bad_records_named
from keras_resnet.training.run.history_plot import BLUE, ORANGE, tidy
from keras_resnet.training.run.resolved import (
    ResolvedRecipe,
    check_classes,
    open_data,
    resolve_recipe,
)

#: The search ends when the smoothed loss exceeds its minimum by this factor.
_DIVERGED = 4.0

#: Smallest decrease of the loss in standard errors, which at most 2 % of pure-noise curves reach.
_CLEARLY = 4.5

#: Smallest decrease of the loss as a share of the loss.
_LEAST_FALL = 0.01

_NO_FALL = (
    "The loss never fell clearly, so no learning rate is suggested. Use more steps or another "
    "range of rates, and check that the labels are right and that layers are trainable"
)


@dataclass(frozen=True)
class RateCurve:
    """The loss of a network at increasing learning rates.

    The suggested rate is the one at which the smoothed loss falls most steeply against the
    logarithm of the rate, before its minimum. Slopes are those of least-squares lines through each
    point and its neighbors, up to a tenth of the steps on either side. The first tenth of the steps
    is ignored, as averages of few losses are noisy.

    Use the suggestion as a starting point. The smoothed loss lags by a twenty-fifth of the range of
    rates, so with rates from 1e-6 to 10 the suggestion may be too high by a factor of 2. With more
    steps, more is learned at each rate, and the loss falls at lower rates.

    Attributes:
        rates: learning rate of each step, increasing geometrically, at the batch size of the
            recipe; see `rate_setting` for recipes that scale their learning rate.
        losses: loss of each step, before its update; the last one may be NaN or infinite.
        smoothed: exponential moving average of the losses over a twentieth of the steps (at least
            two), corrected for its start at zero.
        suggested: suggested learning rate; None if the loss never fell clearly.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggested: float | None

    def __str__(self) -> str:
        if self.suggested is None:
            return f"{_NO_FALL}."
        return f"Suggested learning rate: {self.suggested:.2g}, where the loss falls most steeply."

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes as JSON-serializable data; losses that are not finite are None."""
        return {
            "rates": list(self.rates),
            "losses": [value if math.isfinite(value) else None for value in self.losses],
            "smoothed": [value if math.isfinite(value) else None for value in self.smoothed],
            "suggested": self.suggested,
        }

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write `rates.csv` and `rates.png` to a folder: both files, or none.

        Args:
            folder: the folder, which need not exist. Files of these names are replaced.

        Raises:
            ValueError: If the folder is not writable.
            OSError: If the disk is full.
        """
        folder = Path(folder)
        with partial_directory(folder) as staging:
            with (staging / "rates.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(("rate", "loss", "smoothed"))
                for row in zip(self.rates, self.losses, self.smoothed, strict=True):
                    writer.writerow([repr(value) for value in row])
            rate_plot(self).savefig(staging / "rates.png", dpi=120)
            publish(staging, ("rates.csv", "rates.png"))


def find_rate(
    model: keras.Model,
    data: tuple[Source, Source] | DataConfig | str,
    recipe: Recipe | str = "finetune",
    *,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int = 100,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    max_bad_fraction: float | None = None,
    progress: Progress = unseen,
) -> RateCurve:
    """Find a learning rate by training a copy of a model with increasing rates.

    This is the learning rate range test of Smith 2017 (arXiv:1506.01186), section 3.3, with rates
    that increase geometrically, on one device. Optimizer, loss, batch size and augmentation are
    those of the recipe; its learning rate, schedule, duration, weight average and precise BN are
    ignored. The test ends early if the smoothed loss is not finite or exceeds four times its
    minimum.

    Args:
        model: as for `train`; it is not changed. Frozen layers stay frozen.
        data: as for `train`; the validation part is not used.
        recipe: the recipe to train with, or its name in `RECIPES`.
        lowest: learning rate of the first step, before factors of `optimizer.rate_groups`.
        highest: learning rate of the last step.
        steps: number of optimizer steps, at least 10. The data are repeated if necessary.
        seed: random seed of data order, augmentation, dropout and stochastic depth.
        folder: folder for the files of `RateCurve.write`; None: nothing is written.
        max_bad_fraction: as for `train`.
        progress: called about ten times with the current rate and the share, in [0, 1], that is
            done.

    Returns:
        The losses at all rates and a suggested rate.

    Raises:
        ValueError: If model, data and recipe do not fit together, no layer is trainable, or an
            argument has an invalid value.
        TooManyBadRecordsError: If too many images cannot be read.
        OSError: If the disk is full.
    """
    rates = _growing(lowest, highest, steps)
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
    (source, _), config = open_data(data, max_bad_fraction)
    check_classes(model, source)
    if not model.trainable_variables:
        raise ValueError(
            f"Expected a model with trainable layers. Received: {model.name}, in which all layers "
            "are frozen. Call `unfreeze` first"
        )
    resolved = resolve_recipe(model, source, recipe, config=config, seed=seed)
    copy = training_copy(model, size=resolved.size, seed=seed)
    if recipe.loss.l2_sp:
        pull_to_start(copy, recipe.loss.l2_sp, model.get_weights())
    # A constant rate of 1, multiplied by `rate_factor`, which can change between steps.
    compile_copy(copy, recipe, source, 1.0)
    losses: list[float] = []
    smoothed: list[float] = []
    for done, loss in enumerate(_losses(copy, resolved, source, rates)):
        if done % max(1, steps // 10) == 0:
            progress(f"rate {rates[done]:.1e}", done / steps)
        losses.append(loss)
        smoothed = list(smooth(losses, steps))
        if not math.isfinite(smoothed[-1]) or smoothed[-1] > _DIVERGED * min(smoothed):
            break
    known = rates[: len(losses)]
    curve = RateCurve(known, tuple(losses), tuple(smoothed), suggest(known, losses, steps))
    if folder is not None:
        curve.write(folder)
    return curve


def rate_setting(recipe: Recipe, rate: float) -> float:
    """Return the `optimizer.learning_rate` with which the peak learning rate is `rate`."""
    reference = recipe.optimizer.reference_batch_size
    return rate * (reference / recipe.batch_size if reference else 1.0)


def smooth(losses: Iterable[float], steps: int) -> Iterator[float]:
    """Yield the exponential moving averages of `RateCurve`, for a search of `steps` steps."""
    keep = 1 - 1 / max(2.0, steps / 20)
    average = 0.0
    for count, loss in enumerate(losses, 1):
        average = keep * average + (1 - keep) * loss
        yield average / (1 - keep**count)


def suggest(rates: Sequence[float], losses: Sequence[float], steps: int) -> float | None:
    """Return the suggested learning rate of `RateCurve`.

    The loss falls clearly if the losses up to the minimum of the smoothed loss can be split into
    two parts such that the mean of the second is lower by 1 % and by 4.5 standard errors of the
    difference, estimated from the differences of adjacent losses.

    Args:
        rates: learning rates of the steps taken, ascending.
        losses: losses of these steps; the last one may be NaN or infinite.
        steps: planned number of steps.

    Returns:
        One of `rates`, or None if the loss does not fall clearly.
    """
    values = np.asarray(losses, np.float64)
    values = values[: len(values) - (not np.isfinite(values[-1]))]
    first = max(3, steps // 10)
    if len(values) <= first:
        return None
    smoothed = np.asarray(list(smooth(values.tolist(), steps)))
    lowest = first + int(smoothed[first:].argmin())
    if not _falls(values[: lowest + 1], first):
        return None
    half = max(2, steps // 10)
    logarithms = np.log(rates[: len(values)])
    slopes = {}
    for index in range(first, lowest):
        near = slice(max(0, index - half), index + half + 1)
        slopes[index] = np.polyfit(logarithms[near], smoothed[near], 1)[0]
    steepest = min(slopes, key=lambda index: slopes[index], default=None)
    if steepest is None or slopes[steepest] >= 0:
        return None
    return float(rates[steepest])


def _falls(losses: np.ndarray, first: int) -> bool:
    """Return whether losses fall clearly; see `suggest`."""
    noise = np.sqrt(np.mean(np.diff(losses) ** 2) / 2)
    for cut in range(first, len(losses) - 1):
        before, after = losses[:cut], losses[cut:]
        error = noise * math.sqrt(1 / len(before) + 1 / len(after))
        fall = before.mean() - after.mean()
        if fall > max(_CLEARLY * error, _LEAST_FALL * before.mean()):
            return True
    return False


def rate_plot(curve: RateCurve) -> Figure:
    """Plot the losses, the smoothed losses and the suggestion against the learning rate."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    losses, smoothed = (
        np.where(np.isfinite(values), values, np.nan) for values in (curve.losses, curve.smoothed)
    )
    axes.plot(curve.rates, losses, "o", color=BLUE, alpha=0.3, markersize=4, label="loss")
    axes.plot(curve.rates, smoothed, "-", color=BLUE, linewidth=1.6, label="smoothed")
    if curve.suggested is not None:
        height = curve.smoothed[curve.rates.index(curve.suggested)]
        axes.axvline(curve.suggested, color=ORANGE, linestyle="--", linewidth=1.2)
        label = f"suggested: {curve.suggested:.2g}"
        axes.plot([curve.suggested], [height], "D", color=ORANGE, markersize=7, label=label)
    axes.set_xscale("log")
    # A loss that explodes at the end would flatten the rest of the curve.
    seen = smoothed[np.isfinite(smoothed)]
    if seen.size:
        low, high = float(seen.min()), float(min(seen.max(), 2 * seen[0]))
        margin = 0.1 * (high - low) or 0.1
        axes.set_ylim(max(0.0, low - margin), high + margin)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    tidy(axes)
    axes.legend(frameon=False, fontsize=9)
    return figure


def _growing(lowest: float, highest: float, steps: int) -> tuple[float, ...]:
    check_number("lowest", lowest)
    check_number("highest", highest)
    check_integer("steps", steps, 10)
    if not 0 < lowest < highest:
        raise ValueError(
            f"Expected `lowest` above 0 and below `highest`. Received: lowest={lowest:g}, "
            f"highest={highest:g}"
        )
    return tuple(float(rate) for rate in np.geomspace(lowest, highest, steps))


def _losses(
    model: TrainedModel, resolved: ResolvedRecipe, source: Source, rates: Sequence[float]
) -> Iterator[float]:
    """Train one step with each of the rates, and yield the losses before the updates."""
    accumulation = resolved.recipe.optimizer.accumulation
    total = len(rates) * accumulation
    bad = BadRecords(source.name, len(source), resolved.training.max_bad_fraction)
    dataset = training_batches(
        source, resolved.training, math.ceil(total / resolved.batches_per_epoch), bad=bad
    )
    optimizer: Any = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    with bad_records_named(bad):
        batches = dataset.take(total).as_numpy_iterator()
        for rate in rates:
            optimizer.rate_factor.assign(rate)
            parts = [
                model.train_on_batch(*next(batches), return_dict=True)["loss"]
                for _ in range(accumulation)
            ]
            yield float(np.mean(parts))
