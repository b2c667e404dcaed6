"""The steps of a training run: `fit` in as many parts as it takes, evaluation, checkpoints."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_resnet.data import BadRecords, Source, evaluation_batches, training_batches
from keras_resnet.support.terminal import console
from keras_resnet.training.devices.strategies import DeviceSetup
from keras_resnet.training.optimizers.averaging import average_bn_across_replicas, recompute_bn
from keras_resnet.training.optimizers.optimizers import describe
from keras_resnet.training.run.callbacks import (
    AdaptiveRate,
    Averaging,
    Checkpointing,
    Counter,
    EndIfAsked,
    EpochEnd,
    Guard,
)
from keras_resnet.training.run.copy import copy_weights
from keras_resnet.training.run.interruption import (
    Interruption,
    TrainingInterrupted,
    TrainingKeyboardInterrupted,
)
from keras_resnet.training.run.outputs import Outputs
from keras_resnet.training.run.plan import TrainingPlan
from keras_resnet.training.run.progress import ProgressBar
from keras_resnet.training.run.run import Run


class Fitting:
    """Takes the steps of a run, evaluates and saves; `train` prepares it."""

    def __init__(
        self,
        model: keras.Model,
        data: tuple[Source, Source],
        plan: TrainingPlan,
        run: Run,
        outputs: Outputs,
        setup: DeviceSetup,
        interruption: Interruption,
    ) -> None:
        """Takes the caller's model, which gets the weights that are worth it."""
        self._model, self._data, self._plan, self._run = model, data, plan, run
        self._outputs, self._setup, self._interruption = outputs, setup, interruption
        limit = plan.training.max_bad_fraction
        self._bad = tuple(BadRecords(part.name, len(part), limit) for part in data)

    def fit(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        checkpoint_every: int | None,
        profile: tuple[int, int] | None,
    ) -> None:
        """Takes all steps that are left."""
        run, setup = self._run, self._setup
        setup.require_same(run.batches, "batches that were taken before")
        progress = ProgressBar(run, self._plan.training.batch_size)
        if setup.is_chief:
            for note in setup.notes:
                console.print(note)
            console.print(describe(run.model.optimizer, run.model.trainable_variables))
        every_step: list[keras.callbacks.Callback] = [
            Counter(run),
            Guard(run, run.model.output_shape[-1], self._outputs.last_good),
            AdaptiveRate(run),
            Averaging(run),
            EpochEnd(run, self._evaluate, self._finish_epoch),
            *callbacks,
            *self._outputs.tensorboard(profile),
            Checkpointing(run, checkpoint_every, self._save),
            *([progress] if setup.is_chief else []),
            EndIfAsked(self._end_if_asked),
        ]
        with self._failures_named(), contextlib.closing(progress):
            try:
                self._take_up(every_step)
                for epoch, last, batches in self._plan.segments(run.batches):
                    if run.is_exhausted:
                        break
                    run.model.fit(
                        self._training(),
                        initial_epoch=epoch,
                        epochs=last,
                        steps_per_epoch=batches,
                        callbacks=every_step,
                        shuffle=False,
                        verbose=0,
                    )
            except (TrainingInterrupted, TrainingKeyboardInterrupted) as interruption:
                self._save()
                interruption.kept = self._outputs.kept()
                raise
        if setup.is_chief and run.is_exhausted and run.batches < run.total:
            console.print(
                f"Ended after {run.finished_epochs} of {run.epochs} epochs: the best validation "
                f"accuracy is that of epoch {run.best_epoch}, `patience` is {run.recipe.patience}."
            )

    def finish(self) -> None:
        """Hands over the last weights, with BN statistics of their own if the recipe says so."""
        run = self._run
        average_bn_across_replicas(run.model)
        with run.averaged():
            if run.recipe.precise_bn:
                recompute_bn(run.model, self._bn_batches())
                average_bn_across_replicas(run.model)
            copy_weights(run.model, self._model)

    def _evaluate(self) -> dict[str, float]:
        """Figures of all validation images."""
        average_bn_across_replicas(self._run.model)
        with self._run.metrics_kept(), self._run.averaged():
            return self._evaluated(None, [EndIfAsked(self._end_if_asked)])

    def _evaluated(self, steps: int | None, callbacks: Sequence[Any] = ()) -> dict[str, float]:
        dataset = evaluation_batches(
            self._data[1],
            self._plan.evaluation,
            worker=self._setup.worker,
            workers=self._setup.workers,
            bad=self._bad[1],
        )
        figures: dict[str, float] = self._run.model.evaluate(
            self._setup.distribute(dataset),
            steps=steps or int(dataset.cardinality()),
            callbacks=list(callbacks),
            return_dict=True,
            verbose=0,
        )
        return figures

    def _finish_epoch(self, is_best: bool) -> None:
        if is_best and self._outputs.path is not None:
            with self._run.averaged():
                copy_weights(self._run.model, self._model)
        self._outputs.write_epoch(self._run, is_best)

    def _save(self) -> None:
        # A checkpoint holds one value of what replicas have each of their own.
        average_bn_across_replicas(self._run.model)
        self._outputs.save(self._run)

    def _end_if_asked(self) -> None:
        """Ends the run if any worker was asked to: all of them after the same step."""
        asked = self._interruption.signal is not None
        if self._setup.any_worker(asked):
            if not asked:
                self._interruption.note(signal.SIGTERM, None)
            self._interruption.raise_if_requested()

    def _take_up(self, callbacks: list[keras.callbacks.Callback]) -> None:
        """Prepares for the middle of an epoch, and ends one that lacks its evaluation only."""
        run, plan = self._run, self._plan
        self._end_if_asked()
        if run.batches <= run.finished_epochs * plan.batches_per_epoch:
            return
        # Metrics have no variables before they have seen a batch.
        self._evaluated(steps=1)
        if run.batches % plan.batches_per_epoch == 0 or run.batches == run.total:
            run.restore_metrics()
            logs = {name: float(value) for name, value in run.model.get_metrics_result().items()}
            together = keras.callbacks.CallbackList(callbacks, model=run.model)
            together.on_epoch_end(run.finished_epochs, logs)

    def _training(self) -> Any:
        dataset = training_batches(
            self._data[0],
            self._plan.training,
            self._run.epochs,
            start_step=self._run.batches,
            worker=self._setup.worker,
            workers=self._setup.workers,
            bad=self._bad[0],
        )
        return self._setup.distribute(dataset)

    def _bn_batches(self) -> Iterator[Any]:
        """This worker's part of training batches of an epoch that comes after all."""
        batches = self._run.recipe.precise_bn
        dataset = training_batches(
            self._data[0],
            self._plan.training,
            self._run.epochs + 1 + batches // self._plan.batches_per_epoch,
            start_step=self._run.epochs * self._plan.batches_per_epoch,
            worker=self._setup.worker,
            workers=self._setup.workers,
        )
        for images, _ in dataset.take(batches):
            yield images.numpy()

    @contextlib.contextmanager
    def _failures_named(self) -> Iterator[None]:
        """Raises what a pipeline meant where TensorFlow raises something of its own."""
        try:
            yield
        except tf.errors.OpError:
            for part in self._bad:
                if part.error is not None:
                    raise part.error from None
            raise
