"""What happens between the steps of `fit`, each in a callback of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras

from keras_resnet.training.optimizers.averaging import average_bn_across_replicas
from keras_resnet.training.optimizers.keras_private import synchronize
from keras_resnet.training.run.run import Run


class DivergedError(RuntimeError):
    """The loss became infinite, no number, or far larger than that of guessing."""


class RunCallback(keras.callbacks.Callback):
    """One that knows the run."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run


class Counter(RunCallback):
    """Counts batches; comes first. Puts back what metrics had counted before an interruption."""

    _begin = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._run.restore_metrics()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._begin = batch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # With several steps per execution, `batch` is the number of the last one.
        self._run.batches += batch - self._begin + 1


class Guard(RunCallback):
    """Stops a run whose loss is no number, infinite, or a hundred times that of guessing."""

    def __init__(self, run: Run, classes: int, last_good: Callable[[], str]) -> None:
        """Takes the run, how many classes there are, and what says which state is safe."""
        super().__init__(run)
        self._last_good = last_good
        self._limit = 100 * max(1.0, math.log(classes))

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        loss = float((logs or {}).get("loss", 0.0))
        if math.isfinite(loss) and loss <= self._limit:
            return
        synchronize(self._run.model)
        raise DivergedError(
            f"Expected a finite loss of at most {self._limit:.0f}. Received: a mean loss of "
            f"{loss:g} in epoch {self._run.finished_epochs + 1}, at step {self._run.steps}, with "
            f"learning rate {self._run.learning_rate:g}. {self._last_good()} Try a lower learning "
            "rate or a longer warm-up"
        )


class AdaptiveRate(RunCallback):
    """Ends the warm-up of He et al. 2015, section 4.2, once the training error is low enough."""

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        limit = self._run.recipe.schedule.low_until_error
        if not self._run.low_rate or limit is None:
            return
        if 1 - float((logs or {}).get("accuracy", 0.0)) < limit:
            self._run.low_rate = False
            synchronize(self._run.model)
            self._run.set_rate()


class Averaging(RunCallback):
    """Keeps the moving average of the weights."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        run = self._run
        every = run.recipe.average.every * run.recipe.optimizer.accumulation
        if run.average is not None and run.batches % every == 0:
            synchronize(run.model)
            average_bn_across_replicas(run.model)
            run.average.update(run.model)


class EpochEnd(RunCallback):
    """Evaluates, follows the error, and hands the epoch's figures on.

    Keras would evaluate by itself; here, the weights are the averaged ones, and an interruption
    inside finds the run as it was before.
    """

    def __init__(
        self,
        run: Run,
        evaluate: Callable[[], dict[str, float]],
        finished: Callable[[bool], None],
    ) -> None:
        """Takes what evaluates, and what to do with an epoch, told if it is the best."""
        super().__init__(run)
        self._evaluate, self._finished = evaluate, finished

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        run = self._run
        synchronize(run.model)
        logs = {} if logs is None else logs
        # That of the next step.
        logs["learning_rate"] = run.learning_rate
        logs |= {f"val_{name}": value for name, value in self._evaluate().items()}
        for name in sorted(logs, key=_place):
            run.history.setdefault(name, []).append(float(logs[name]))
        if run.plateau is not None:
            run.plateau.update(1 - logs["val_accuracy"])
            run.set_rate()
        is_best = run.best is None or logs["val_accuracy"] > run.best
        if is_best:
            run.best, run.best_epoch = float(logs["val_accuracy"]), epoch + 1
        self._finished(is_best)
        if run.is_exhausted:
            self.model.stop_training = True


class Checkpointing(RunCallback):
    """Saves the run every so many batches and after every epoch."""

    def __init__(self, run: Run, every: int | None, save: Callable[[], None]) -> None:
        super().__init__(run)
        self._every, self._save, self._before = every, save, run.batches

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        before, self._before = self._before, self._run.batches
        within_epoch = self._before % self._run.batches_per_epoch != 0
        if self._every and within_epoch and before // self._every != self._before // self._every:
            synchronize(self._run.model)
            self._save()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        synchronize(self._run.model)
        self._save()


def _place(name: str) -> tuple[bool, bool, str]:
    """Loss, accuracies, those of validation, then the learning rate."""
    return name == "learning_rate", name.startswith("val_"), name.replace("loss", "")
