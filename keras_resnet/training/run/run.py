"""A training run: what is trained, how far it is, and all that a checkpoint of it holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_resnet.training.optimizers.averaging import WeightAverage
from keras_resnet.training.optimizers.schedules import Plateau
from keras_resnet.training.run.checkpoint import ResumeError, RunState
from keras_resnet.training.run.resolved import ResolvedRecipe


class Run:
    """The state that changes while a network is trained.

    Attributes:
        model: the copy that is trained, compiled; see `training_copy`.
        recipe: with all times in optimizer steps.
        batches_per_epoch: batches per epoch; with accumulation, several make one optimizer step.
        total: batches of the whole training.
        average: the moving average of the weights, if the recipe has one.
        plateau: follows the validation error, if the schedule does.
        batches: how many were taken.
        low_rate: whether the warm-up of `schedule.low_until_error` still lasts.
        history: one value per finished epoch of every quantity.
        best: highest accuracy on validation images, if there was one.
        best_epoch: after which epoch, from 1.
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
        """Epochs of the whole training; one that is cut short counts."""
        return -(-self.total // self.batches_per_epoch)

    @property
    def finished_epochs(self) -> int:
        """The number of epochs that were trained and evaluated."""
        return len(self.history.get("loss", ()))

    @property
    def is_exhausted(self) -> bool:
        """Whether no epoch has been better for as many as the recipe has patience for."""
        patience = self.recipe.patience
        since = self.finished_epochs - (self.best_epoch or 0)
        return patience is not None and since >= patience

    @property
    def steps(self) -> int:
        """Optimizer steps taken; those that a loss scale skipped do not count."""
        return int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def set_rate(self) -> None:
        """Multiplies the scheduled learning rate by what warm-up and plateau make of it."""
        factor = self.recipe.schedule.low_factor if self.low_rate else 1.0
        if self.plateau is not None:
            factor *= self.plateau.factor
        inner = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        inner.rate_factor.assign(factor)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model has the averaged weights, if they are averaged."""
        if self.average is None or not self.average.steps:
            yield
            return
        with self.average.applied(self.model):
            yield

    @contextlib.contextmanager
    def metrics_kept(self) -> Iterator[None]:
        """Inside, the metrics may count something else; a checkpoint holds what they were."""
        self._metrics = _values(self.model.metrics_variables)
        yield
        self._metrics = None

    def state(self) -> RunState:
        """All that it takes to go on from here."""
        arrays = {
            **_named("model", self.model.variables),
            **_named("optimizer", self.model.optimizer.variables),
        }
        # Between two epochs, metrics count nothing that matters.
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
        """Goes back to where `state` was taken.

        Metrics in the middle of an epoch wait for `restore_metrics`, as Keras sets them to zero
        when `fit` starts.

        Raises:
            ResumeError: the state is not that of such a model and optimizer.
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
        """Goes on counting the epoch that `restore` went back into."""
        if self._metrics is not None:
            variables = self.model.metrics_variables
            for variable, value in zip(variables, self._metrics, strict=True):
                variable.assign(value)
            self._metrics = None


def _values(variables: list[Any]) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def _named(part: str, variables: list[Any]) -> dict[str, np.ndarray]:
    """Variables in their order: optimizers number names through, so paths may change."""
    return {f"{part}/{index:05d}": value for index, value in enumerate(_values(variables))}


def _assign(part: str, variables: list[Any], arrays: dict[str, np.ndarray]) -> None:
    for index, variable in enumerate(variables):
        value = arrays.get(f"{part}/{index:05d}")
        if value is None or value.shape != tuple(variable.shape):
            raise ResumeError(
                f"Expected a checkpoint with {variable.path} of shape {tuple(variable.shape)}. "
                f"Received: {'none' if value is None else value.shape}. It is of another model or "
                "optimizer; choose another folder"
            )
        variable.assign(value)
