"""The main part of a training run: calls of `fit`, evaluation, and saving of states."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_resnet.data import BadRecords, Source, evaluation_batches, training_batches
from keras_resnet.models.info import get_info
from keras_resnet.support.terminal import console
from keras_resnet.training.devices.strategies import DeviceSetup
from keras_resnet.training.optimizers.averaging import average_bn_across_replicas, recompute_bn
from keras_resnet.training.optimizers.keras_private import synchronize
from keras_resnet.training.optimizers.optimizers import describe
from keras_resnet.training.recipes.recipe import Recipe
from keras_resnet.training.run.callbacks import AfterSteps, StateSaving
from keras_resnet.training.run.card import CardFacts, model_card
from keras_resnet.training.run.copy import copy_weights
from keras_resnet.training.run.environment import describe_environment
from keras_resnet.training.run.folder import RunFolder
from keras_resnet.training.run.interruption import (
    Interruption,
    TrainingInterrupted,
    TrainingKeyboardInterrupted,
)
from keras_resnet.training.run.progress import ProgressBar
from keras_resnet.training.run.resolved import ResolvedRecipe
from keras_resnet.training.run.run import Run


class Fitting:
    """The main part of a training run, which `train` prepares."""

    def __init__(
        self,
        model: keras.Model,
        data: tuple[Source, Source],
        resolved: ResolvedRecipe,
        run: Run,
        folder: RunFolder | None,
        setup: DeviceSetup,
        interruption: Interruption,
    ) -> None:
        """Restore the newest undamaged state in `folder`, if there is one.

        `model` is the caller's model, which gets the weights that are saved. With several workers,
        only the chief writes files, but all of them read the state that they resume from.
        """
        self._model, self._data, self._resolved, self._run = model, data, resolved, run
        self._folder, self._setup, self._interruption = folder, setup, interruption
        self._written = folder if setup.is_chief else None
        self._last: Path | None = None
        self._ender = keras.callbacks.LambdaCallback(
            on_train_batch_end=self._end_if_asked, on_test_batch_end=self._end_if_asked
        )
        limit = resolved.training.max_bad_fraction
        self._bad = tuple(BadRecords(part.name, len(part), limit) for part in data)
        if folder is not None and (found := folder.latest()):
            self._last, state = found
            run.restore(state)
            if setup.is_chief:
                console.print(
                    f"Resuming {folder.path}: {run.batches} of {run.total} batches, "
                    f"{run.finished_epochs} of {run.epochs} epochs are done."
                )

    def fit(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        checkpoint_every: int | None,
        profile: tuple[int, int] | None,
        shown: bool,
    ) -> None:
        """Train for all remaining steps, and print the progress if `shown`."""
        run, setup = self._run, self._setup
        progress = ProgressBar(run, self._resolved.training.batch_size, len(self._data[0]))
        if shown:
            for note in setup.notes:
                console.print(note)
            console.print(describe(run.model.optimizer, run.model.trainable_variables))
        every_step: list[keras.callbacks.Callback] = [
            AfterSteps(run, self._last_saved),
            keras.callbacks.LambdaCallback(on_epoch_end=self._end_epoch),
            *callbacks,
            *self._tensorboard(profile),
            StateSaving(run, checkpoint_every, self._save),
            *([progress] if shown else []),
            self._ender,
        ]
        with bad_records_named(*self._bad), contextlib.closing(progress):
            try:
                self._prepare_epoch(every_step)
                for epoch, last, batches in self._resolved.segments(run.batches):
                    if run.is_exhausted:
                        break
                    run.model.fit(
                        setup.distribute(self._training(run.epochs, run.batches, self._bad[0])),
                        initial_epoch=epoch,
                        epochs=last,
                        steps_per_epoch=batches,
                        callbacks=every_step,
                        shuffle=False,
                        verbose=0,
                    )
            except (TrainingInterrupted, TrainingKeyboardInterrupted) as interruption:
                self._save()
                if self._last:
                    interruption.kept = f"{self._last_saved()[:-1]}; run the same again to resume"
                raise
        if shown and run.is_exhausted and run.batches < run.total:
            console.print(
                f"Ended early, after {run.finished_epochs} of {run.epochs} epochs: the best "
                f"validation accuracy is that of epoch {run.best_epoch}, and `patience` is "
                f"{run.recipe.patience}."
            )

    def finish(self, recipe: Recipe, seed: int, dtype: str) -> None:
        """Copy the last weights to the caller's model, and write the model and its card.

        If the recipe has `precise_bn`, the statistics of BN are recomputed first. `recipe`, `seed`
        and `dtype` are those of the card.
        """
        run = self._run
        average_bn_across_replicas(run.model)
        with run.averaged():
            if run.recipe.precise_bn:
                recompute_bn(run.model, self._bn_batches())
                average_bn_across_replicas(run.model)
            copy_weights(run.model, self._model)
        if self._written is not None:
            self._written.write_model(self._model, self._written.last_file)
            self._written.write_card(self._card(recipe, seed, dtype))

    def _card(self, recipe: Recipe, seed: int, dtype: str) -> str:
        model, run = self._model, self._run
        train_data, validation_data = self._data
        # Parent folders of the data may be private.
        scheme, colon, path = train_data.name.partition(":")
        return model_card(
            CardFacts(
                network=model.name,
                config=get_info(model).config or {},
                parameters=model.count_params(),
                input_shape=model.input_shape[1:],
                data=f"{scheme}{colon}{path.rpartition('/')[2]}",
                class_names=train_data.class_names,
                images=(len(train_data), len(validation_data)),
                recipe=recipe,
                history=run.history,
                best_epoch=run.best_epoch,
                seed=seed,
                dtype=dtype,
                environment=describe_environment(),
            )
        )

    def _tensorboard(self, profile: tuple[int, int] | None) -> list[keras.callbacks.Callback]:
        if self._written is None:
            return []
        folder = str(self._written.tensorboard_folder)
        return [keras.callbacks.TensorBoard(folder, write_graph=False, profile_batch=profile or 0)]

    def _last_saved(self) -> str:
        return f"The last saved state is {self._last}." if self._last else "No state was saved."

    def _evaluate(self) -> dict[str, float]:
        """Return the metrics on all validation images."""
        average_bn_across_replicas(self._run.model)
        with self._run.metrics_kept(), self._run.averaged():
            return self._evaluated(None, [self._ender])

    def _evaluated(self, steps: int | None, callbacks: Sequence[Any] = ()) -> dict[str, float]:
        """Return the metrics on validation batches: `steps` of them, or all."""
        dataset = evaluation_batches(
            self._data[1],
            self._resolved.evaluation,
            worker=self._setup.worker,
            workers=self._setup.workers,
            bad=self._bad[1],
        )
        metrics: dict[str, float] = self._run.model.evaluate(
            self._setup.distribute(dataset),
            steps=steps or int(dataset.cardinality()),
            callbacks=list(callbacks),
            return_dict=True,
            verbose=0,
        )
        return metrics

    def _end_epoch(self, epoch: int, logs: dict[str, float]) -> None:
        """Evaluate, update the learning rate, and write the metrics of the epoch.

        Unlike validation by Keras, this evaluates averaged weights, and an interruption of it saves
        the state before.
        """
        run, folder = self._run, self._written
        synchronize(run.model)
        # The rate of the next step.
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
        if is_best and self._folder is not None:
            with run.averaged():
                copy_weights(run.model, self._model)
        if folder is not None:
            folder.write_history(run.history)
            folder.write_plot(run.history, f"{self._model.name}, {run.recipe.name}")
            if is_best:
                folder.write_model(self._model, folder.best_file)
        if run.is_exhausted:
            run.model.stop_training = True

    def _save(self) -> None:
        # A state holds only one value of statistics that differ between replicas.
        average_bn_across_replicas(self._run.model)
        if self._folder is not None:
            # All workers have to take part, as metrics are gathered from them.
            state = self._run.state()
            if self._written is not None:
                self._last = self._written.save(self._run.batches, state)

    def _end_if_asked(self, batch: int = 0, logs: Any = None) -> None:
        """End the run on all workers after the same step if any worker got a signal."""
        asked = self._interruption.signal is not None
        if self._setup.any_worker(asked):
            if not asked:
                self._interruption.signal = signal.SIGTERM
            self._interruption.raise_if_requested()

    def _prepare_epoch(self, callbacks: list[keras.callbacks.Callback]) -> None:
        """Prepare metrics for a partial epoch, and end an epoch that lacks only its evaluation."""
        run, per_epoch = self._run, self._run.batches_per_epoch
        self._end_if_asked()
        if run.batches <= run.finished_epochs * per_epoch:
            return
        # Metrics create their variables at the first batch.
        self._evaluated(steps=1)
        if run.batches % per_epoch == 0 or run.batches == run.total:
            run.restore_metrics()
            logs = {name: float(value) for name, value in run.model.get_metrics_result().items()}
            together = keras.callbacks.CallbackList(callbacks, model=run.model)
            together.on_epoch_end(run.finished_epochs, logs)

    def _training(self, epochs: int, start: int, bad: BadRecords | None) -> tf.data.Dataset:
        """Return this worker's part of the training batches, starting with batch `start`."""
        return training_batches(
            self._data[0],
            self._resolved.training,
            epochs,
            start_step=start,
            worker=self._setup.worker,
            workers=self._setup.workers,
            bad=bad,
        )

    def _bn_batches(self) -> Iterator[Any]:
        """Yield this worker's part of training batches from an epoch after the last one."""
        run, batches = self._run, self._run.recipe.precise_bn
        epochs = run.epochs + 1 + batches // run.batches_per_epoch
        dataset = self._training(epochs, run.epochs * run.batches_per_epoch, None)
        for images, _ in dataset.take(batches):
            yield images.numpy()


@contextlib.contextmanager
def bad_records_named(*parts: BadRecords) -> Iterator[None]:
    """Raise the error of a pipeline about bad records instead of TensorFlow's own error."""
    try:
        yield
    except tf.errors.OpError:
        for part in parts:
            if part.error is not None:
                raise part.error from None
        raise


def _place(name: str) -> tuple[bool, bool, str]:
    """Return a sort key: training metrics, validation metrics (loss first), the learning rate."""
    return name == "learning_rate", name.startswith("val_"), name.replace("loss", "")
