"""Callbacks of a training run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras

from keras_resnet.training.optimizers.averaging import average_bn_across_replicas
from keras_resnet.training.optimizers.keras_private import synchronize
from keras_resnet.training.run.run import Run


class DivergedError(RuntimeError):
    """Raised if the loss becomes infinite, NaN, or much larger than that of random guessing."""


class AfterSteps(keras.callbacks.Callback):
    """Callback that updates a run after every step; it has to be the first one.

    It counts batches, raises DivergedError if the loss diverges, ends the warm-up of
    `schedule.low_until_error`, and averages the weights.

    Args:
        run: the run.
        last_saved: returns a sentence that names the last saved state.
    """

    def __init__(self, run: Run, last_saved: Callable[[], str]) -> None:
        super().__init__()
        self._run, self._last_saved, self._first_batch = run, last_saved, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._run.restore_metrics()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._first_batch = batch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        run, logs = self._run, logs or {}
        # With several steps per execution, `batch` is the index of the last one.
        run.batches += batch - self._first_batch + 1
        self._check_loss(float(logs.get("loss", 0.0)))
        limit = run.recipe.schedule.low_until_error
        if run.low_rate and limit is not None and 1 - float(logs.get("accuracy", 0.0)) < limit:
            run.low_rate = False
            synchronize(run.model)
            run.set_rate()
        every = run.recipe.average.every * run.recipe.optimizer.accumulation
        if run.average is not None and run.batches % every == 0:
            synchronize(run.model)
            average_bn_across_replicas(run.model)
            run.average.update(run.model)

    def _check_loss(self, loss: float) -> None:
        """Raise DivergedError if the loss has diverged."""
        run = self._run
        # A hundred times the loss of random guessing.
        limit = 100 * max(1.0, math.log(run.model.output_shape[-1]))
        if math.isfinite(loss) and loss <= limit:
            return
        synchronize(run.model)
        raise DivergedError(
            f"Expected a finite loss of at most {limit:.0f}. Received: a mean loss of "
            f"{loss:g} in epoch {run.finished_epochs + 1}, at step {run.steps}, with "
            f"learning rate {run.learning_rate:g}. {self._last_saved()} Try a lower learning "
            "rate or a longer warm-up"
        )


class StateSaving(keras.callbacks.Callback):
    """Callback that saves the state of a run after every epoch and, optionally, within epochs.

    Args:
        run: the run.
        every: number of batches after which the state is saved; None: after epochs only.
        save: saves the state.
    """

    def __init__(self, run: Run, every: int | None, save: Callable[[], None]) -> None:
        super().__init__()
        self._run, self._every, self._save, self._before = run, every, save, run.batches

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        before, self._before = self._before, self._run.batches
        within_epoch = self._before % self._run.batches_per_epoch != 0
        if self._every and within_epoch and before // self._every != self._before // self._every:
            synchronize(self._run.model)
            self._save()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        synchronize(self._run.model)
        self._save()
