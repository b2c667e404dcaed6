"""A training run: the model, its progress, and the state that it is resumed from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_resnet.training.optimizers.averaging import WeightAverage
from keras_resnet.training.optimizers.schedules import Plateau
from keras_resnet.training.run.resolved import ResolvedRecipe
from keras_resnet.training.run.state_file import ResumeError, RunState


class Run:
    """Everything that changes while a network is trained.

    Attributes:
        model: the compiled copy that is trained; see `training_copy`.
        recipe: the recipe with all times in optimizer steps.
        batches_per_epoch: batches per epoch; with accumulation, several make one optimizer step.
        total: batches of the whole training.
        average: moving average of the weights; None if the recipe has none.
        plateau: factor of a plateau schedule; None for other schedules.
        batches: number of batches trained so far.
        low_rate: whether the warm-up of `schedule.low_until_error` is still active.
        history: quantity -> one value per finished epoch.
        best: highest validation accuracy; None before the first epoch ends.
        best_epoch: epoch of the highest validation accuracy, counted from 1.
    """

    def __init__(self, model: keras.Model, resolved: ResolvedRecipe) -> None:
        self.model, self.recipe = model, resolved.recipe
        self.batches_per_epoch, self.total = resolved.batches_per_epoch, resolved.total
        schedule, decay = self.recipe.schedule, self.recipe.average.decay
        self.average = WeightAverage(decay) if decay else None
        self.plateau: Plateau | None = None
        if schedule.name == "plateau":
            self.plateau = Plateau(schedule.factor, schedule.patience, schedule.threshold)
        self.low_rate = schedule.low_until_error is not None
        self.batches = 0
        self.history: dict[str, list[float]] = {}
        self.best: float | None = None
        self.best_epoch: int | None = None
        self._metrics: list[np.ndarray] | None = None
        self.set_rate()

    @property
    def epochs(self) -> int:
        """Epochs of the whole training; a partial epoch counts as one."""
        return -(-self.total // self.batches_per_epoch)

    @property
    def finished_epochs(self) -> int:
        """The number of epochs that have been trained and evaluated."""
        return len(self.history.get("loss", ()))

    @property
    def is_exhausted(self) -> bool:
        """True after as many epochs without improvement as the recipe's `patience` allows."""
        patience = self.recipe.patience
        since = self.finished_epochs - (self.best_epoch or 0)
        return patience is not None and since >= patience

    @property
    def steps(self) -> int:
        """Optimizer steps taken, without those skipped by loss scaling."""
        return int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def set_rate(self) -> None:
        """Multiply the scheduled learning rate by the factors of warm-up and plateau."""
        factor = self.recipe.schedule.low_factor if self.low_rate else 1.0
        if self.plateau is not None:
            factor *= self.plateau.factor
        inner = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        inner.rate_factor.assign(factor)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Set the weights of the model to their moving average, if any, inside the context."""
        if self.average is None or not self.average.steps:
            yield
            return
        with self.average.applied(self.model):
            yield

    @contextlib.contextmanager
    def metrics_kept(self) -> Iterator[None]:
        """Allow other uses of the metrics inside the context; `state` returns the values before."""
        self._metrics = _values(self.model.metrics_variables)
        yield
        self._metrics = None

    def state(self) -> RunState:
        """Return the state that the run can be resumed from."""
        arrays = {
            **_named("model", self.model.variables),
            **_named("optimizer", self.model.optimizer.variables),
        }
        # Between two epochs, the values of metrics do not matter.
        if self.batches > self.finished_epochs * self.batches_per_epoch:
            metrics = self._metrics or _values(self.model.metrics_variables)
            arrays |= {f"metric/{index:05d}": value for index, value in enumerate(metrics)}
        if self.average is not None:
            arrays |= {f"average/{name}": value for name, value in self.average.state().items()}
        values = {
            "batches": self.batches,
            "low_rate": self.low_rate,
            "plateau": None if self.plateau is None else self.plateau.state(),
            "history": self.history,
            "best": self.best,
            "best_epoch": self.best_epoch,
        }
        return RunState(arrays, values)

    def restore(self, state: RunState) -> None:
        """Restore a state that `state` returned.

        Metrics of a partial epoch are restored by `restore_metrics` only, as Keras resets them when
        `fit` starts.

        Raises:
            ResumeError: If the state belongs to another model or optimizer.
        """
        _assign("model", self.model.variables, state.arrays)
        _assign("optimizer", self.model.optimizer.variables, state.arrays)
        metrics = sorted(name for name in state.arrays if name.startswith("metric/"))
        self._metrics = [state.arrays[name] for name in metrics] or None
        if self.average is not None:
            parts = ((name.partition("/"), value) for name, value in state.arrays.items())
            self.average.restore(
                {name: value for (part, _, name), value in parts if part == "average"}
            )
        self.batches = int(state.values["batches"])
        self.low_rate = bool(state.values["low_rate"])
        if self.plateau is not None:
            self.plateau.restore(state.values["plateau"])
        self.history = {name: list(values) for name, values in state.values["history"].items()}
        self.best, self.best_epoch = state.values["best"], state.values["best_epoch"]
        self.set_rate()

    def restore_metrics(self) -> None:
        """Restore the metrics of the partial epoch that `restore` returned to."""
        if self._metrics is not None:
            variables = self.model.metrics_variables
            for variable, value in zip(variables, self._metrics, strict=True):
                variable.assign(value)
            self._metrics = None


def _values(variables: list[Any]) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def _named(part: str, variables: list[Any]) -> dict[str, np.ndarray]:
    """Name variables by position, as the paths of optimizer variables may change."""
    return {f"{part}/{index:05d}": value for index, value in enumerate(_values(variables))}


def _assign(part: str, variables: list[Any], arrays: dict[str, np.ndarray]) -> None:
    for index, variable in enumerate(variables):
        value = arrays.get(f"{part}/{index:05d}")
        if value is None or value.shape != tuple(variable.shape):
            raise ResumeError(
                f"Expected a saved state with {variable.path} of shape {tuple(variable.shape)}. "
                f"Received: {'none' if value is None else value.shape}, from another model or "
                "optimizer. Choose another folder"
            )
        variable.assign(value)
