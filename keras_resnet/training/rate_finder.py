"""The learning-rate finder: one short training at growing rates (Smith 2017, arXiv:1506.01186)."""

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

#: A smoothed loss above this many times the smallest one ends the search.
_DIVERGED = 4.0

#: Standard errors that a fall has to reach: of 100 curves of noise alone, at most 2 do.
_CLEARLY = 4.5

#: Share of the loss that a fall has to reach, however little noise there is.
_LEAST_FALL = 0.01

_NO_FALL = (
    "The loss never fell clearly, so that no learning rate is suggested. Take more steps or "
    "another range of rates, and see whether the labels are right and anything trains"
)


@dataclass(frozen=True)
class RateCurve:
    """The loss of a network at growing learning rates.

    The suggestion is where the smoothed loss falls most steeply against the logarithm of the rate,
    before its minimum: least-squares lines go through each point and its neighbors, a tenth of the
    steps on either side, and the steepest line that falls counts. The first tenth of the steps is
    left out, as means of few losses are noisy. A smoothed loss follows late, by a twenty-fifth of
    the range: from 1e-6 to 10, the suggestion may be too high by a factor of 2 for that reason. It
    is a rate to begin trying with: the more steps, the more is learned at each rate, and the lower
    the rate at which the loss falls.

    Attributes:
        rates: the learning rate of each step, growing geometrically. With the recipe's batch size:
            where the recipe scales its rate linearly, see `rate_setting`.
        losses: the loss of each step's images before the step; the last may be no number.
        smoothed: their exponential moving average, which remembers a twentieth of the steps (at
            least two), with the correction for its start at zero.
        suggested: a learning rate to train with; None: the loss never fell by clearly more than its
            noise.
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
        """Return all of it, fit for JSON: a loss that is not finite is None."""
        return {
            "rates": list(self.rates),
            "losses": [value if math.isfinite(value) else None for value in self.losses],
            "smoothed": [value if math.isfinite(value) else None for value in self.smoothed],
            "suggested": self.suggested,
        }

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write `rates.csv`, with all digits, and `rates.png` into a folder; both or none.

        Args:
            folder: need not exist. Files of these names are replaced.

        Raises:
            ValueError: If the folder cannot be written to.
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
    """Train a copy of `model` at growing learning rates, to find one to train with.

    The learning-rate range test of Smith 2017 (arXiv:1506.01186), section 3.3, with rates that grow
    geometrically. Optimizer, loss, batch size and augmentation are the recipe's, on one device; its
    learning rate, schedule and duration, the average of the weights and precise BN count for
    nothing. It ends early once the smoothed loss is not finite or above four times its smallest
    value.

    Args:
        model: as for `train`; it stays as it is. Frozen layers stay frozen.
        data: as for `train`; the validation part is not used.
        recipe: how the network is to be trained; or a name in `RECIPES`.
        lowest: learning rate of the first step. `optimizer.rate_groups` multiply it.
        highest: that of the last step.
        steps: optimizer steps, at least 10. Data that are over before begin again.
        seed: of data order, augmentation, dropout and stochastic depth.
        folder: where `RateCurve.write` writes; None: nothing is written.
        max_bad_fraction: as for `train`.
        progress: is told, about every tenth of the steps, the present rate and the share, 0 to 1,
            that is done.

    Raises:
        ValueError: If model, data and recipe do not go together, nothing trains, or an argument is
            impossible.
        TooManyBadRecordsError: If too many images cannot be read.
        OSError: If the disk is full.
    """
    rates = _growing(lowest, highest, steps)
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
    (source, _), config = open_data(data, max_bad_fraction)
    check_classes(model, source)
    if not model.trainable_variables:
        raise ValueError(
            f"Expected a model in which something trains. Received: {model.name}, all of which is "
            "frozen. Call `unfreeze` first"
        )
    resolved = resolve_recipe(model, source, recipe, config=config, seed=seed)
    copy = training_copy(model, size=resolved.size, seed=seed)
    if recipe.loss.l2_sp:
        pull_to_start(copy, recipe.loss.l2_sp, model.get_weights())
    # The rate is the factor alone, which may change between steps.
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
    """Return the `optimizer.learning_rate` whose peak, by the linear scaling rule or not, is `rate`."""
    reference = recipe.optimizer.reference_batch_size
    return rate * (reference / recipe.batch_size if reference else 1.0)


def smooth(losses: Iterable[float], steps: int) -> Iterator[float]:
    """Yield the exponential moving average of `RateCurve`, for a search of so many steps."""
    # It remembers a twentieth of all steps.
    keep = 1 - 1 / max(2.0, steps / 20)
    average = 0.0
    for count, loss in enumerate(losses, 1):
        average = keep * average + (1 - keep) * loss
        yield average / (1 - keep**count)


def suggest(rates: Sequence[float], losses: Sequence[float], steps: int) -> float | None:
    """Return the suggestion of `RateCurve`.

    The fall is clear if the losses up to the minimum of the smoothed loss can be cut into two parts
    whose means differ, the second being lower, by 1 % and by 4.5 times the standard error of the
    difference, as the differences of neighboring losses tell it.

    Args:
        rates: of the steps that were taken, ascending.
        losses: of these steps; the last may be no number.
        steps: how many were to be taken.

    Returns:
        One of `rates`, or None.
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
    """Draw the losses, pale, their smoothed line and the suggestion against a logarithmic rate."""
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
    # A loss that explodes at the end would flatten all that is worth seeing.
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
    """Take a step with each of the rates; yields the losses of their images before them."""
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
