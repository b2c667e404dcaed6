"""A thin layer over `compile` and `model.fit` that can be interrupted and resumed to the bit."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_resnet.data import (
    BadRecords,
    DataConfig,
    Source,
    evaluation_batches,
    load_data,
    training_batches,
)
from keras_resnet.model_info import set_class_names
from keras_resnet.terminal import console
from keras_resnet.training.averaging import average_bn_across_replicas, recompute_bn
from keras_resnet.training.callbacks import (
    AdaptiveRate,
    Averaging,
    Checkpointing,
    Counter,
    EndIfAsked,
    EpochEnd,
    Guard,
)
from keras_resnet.training.interruption import (
    Interruption,
    TrainingInterrupted,
    TrainingKeyboardInterrupted,
    noting_signals,
)
from keras_resnet.training.losses import TrainedModel, make_loss
from keras_resnet.training.metrics import make_metrics
from keras_resnet.training.optimizers import describe, make_optimizer
from keras_resnet.training.outputs import Outputs
from keras_resnet.training.progress import ProgressBar
from keras_resnet.training.recipe_table import find_recipe
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.run import Run
from keras_resnet.training.schedules import make_schedule
from keras_resnet.training.strategies import Setup, StrategyName, choose
from keras_resnet.training.training_model import copy_weights, policy_of, training_copy
from keras_resnet.training.training_plan import TrainingPlan, identity, make_plan


@dataclass(frozen=True)
class TrainResult:
    """What a training run left behind.

    Attributes:
        history: one value per epoch of `loss`, `accuracy`, `val_loss`, `val_accuracy`, with more
            than five classes `top5_accuracy` and `val_top5_accuracy`, and `learning_rate`, that of
            the next step.
        steps: optimizer steps taken, over all parts of the run.
        best: highest accuracy on the validation images.
        best_epoch: after which epoch, from 1.
        folder: where the run's files are, if it had a folder.
    """

    history: dict[str, list[float]]
    steps: int
    best: float
    best_epoch: int
    folder: Path | None = None


def train(
    model: keras.Model,
    data: tuple[Source, Source] | DataConfig | str,
    recipe: Recipe | str,
    out_dir: str | os.PathLike[str] | None = None,
    *,
    epochs: float | None = None,
    seed: int = 0,
    strategy: StrategyName | Setup = "auto",
    dtype: str | None = None,
    synchronized_bn: bool = False,
    resume: bool = True,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoint_every: int | None = None,
    keep: int = 3,
    steps_per_execution: int = 1,
    jit_compile: bool | None = None,
    profile: tuple[int, int] | None = None,
) -> TrainResult:
    """Trains `model` in place by `recipe`.

    What is trained is a copy that puts out logits, in the wished precision; the caller's model gets
    its weights in the end, and stays free of optimizer state. Where the recipe averages weights,
    these are the averages.

    With `out_dir`, the same call after an interruption, even by SIGKILL, goes on from the newest
    checkpoint: on one CPU machine, the weights are in the end the same to the bit as without the
    interruption, if the process has called `tf.config.experimental.enable_op_determinism()`.
    SIGTERM and Ctrl-C end the run after the step, with a checkpoint. Several workers and replicas
    average BN's moving statistics whenever they save or evaluate.

    Args:
        model: a functional classifier `(batch, height, width, 3)` -> `(batch, classes)` that ends
            with a softmax, a sigmoid or logits. It takes over the names of the classes.
        data: the images to train on, and those to evaluate after every epoch, which are used for
            nothing else but to choose `best.keras`; or what `load_data` takes. Of a `DataConfig`,
            `size`, `batch_size`, `augmentation` and `seed` come from the recipe and the arguments.
        recipe: how; or a name in `RECIPES`.
        out_dir: folder for `config.json`, `environment.json`, `checkpoints/`, `best.keras`,
            `last.keras`, `history.csv`, `history.png`, `tensorboard/` and `model_card.md`. None:
            nothing is written.
        epochs: length of training instead of the recipe's, whose schedule is compressed in
            proportion.
        seed: of data order, augmentation, dropout and stochastic depth.
        strategy: devices; see `choose`. Several workers need what `choose` returns, called before
            the model is built.
        dtype: `"float32"`, `"bfloat16"` or `"float16"` (with loss scaling); None: the model's.
        synchronized_bn: whether BN takes the statistics of a whole batch instead of every
            replica's part.
        resume: whether to go on with what `out_dir` holds. If not, it must hold no run.
        callbacks: further ones, called after an epoch's evaluation. A resumed run calls
            `on_train_begin` once for the rest of the epoch and once for the epochs after it; what
            they keep in themselves is not part of a checkpoint.
        checkpoint_every: batches between two checkpoints; None: after every epoch only.
        keep: how many checkpoints stay.
        steps_per_execution: batches that go through the network between two callbacks; they must
            divide those of an epoch.
        jit_compile: whether XLA compiles the step; None: under jax only.
        profile: first and last batch that TensorBoard's profiler records.

    Raises:
        ValueError: model, data and recipe do not go together, or an argument is impossible.
        ResumeError: `out_dir` holds a run with another model, recipe, data set, seed or dtype.
        DivergedError: the loss became infinite, no number, or far larger than that of guessing.
        TooManyBadRecordsError: too many images cannot be read.
        TrainingInterrupted: a signal asked for an end; a `SystemExit` of code 143 or 130. For
            Ctrl-C in an interpreter or a notebook, it is a `KeyboardInterrupt`.
        ClusterError: another worker has ended.
        OSError: the disk is full, or every checkpoint is damaged.
    """
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
    sources, settings = _open(data)
    _check_classes(model, sources[0])
    set_class_names(model, sources[0].class_names, sources[0].class_ids)
    setup = strategy
    if not isinstance(setup, Setup):
        setup = choose(
            setup,
            batch_size=recipe.batch_size // recipe.optimizer.accumulation,
            dtype=_precision(model, dtype),
            steps_per_execution=steps_per_execution,
            jit_compile=bool(jit_compile),
        )
    _check_accumulation(recipe, setup)
    with noting_signals() as interruption, setup.explaining_lost_workers(), setup.scope():
        plan = make_plan(
            model,
            sources[0],
            recipe,
            epochs=epochs,
            seed=seed,
            workers=setup.workers,
            steps_per_execution=steps_per_execution,
            settings=settings,
        )
        outputs = Outputs(out_dir, model, sources, keep, writes=setup.is_chief)
        outputs.open(identity(model, sources, plan, seed, dtype), resume)
        same_size = plan.training.size == plan.evaluation.size
        copy = training_copy(
            model,
            dtype=dtype,
            size=plan.training.size if same_size else "any",
            synchronized=synchronized_bn and setup.replicas > 1,
            seed=seed,
        )
        _compile(copy, plan, steps_per_execution, jit_compile)
        run = Run.start(copy, plan.recipe, plan.batches_per_epoch, plan.total)
        outputs.restore(run)
        trainer = _Trainer(model, sources, plan, run, outputs, setup, interruption)
        trainer.fit(callbacks, checkpoint_every, profile)
        trainer.finish()
        outputs.finish(run, recipe if epochs is None else plan.recipe, seed, dtype)
    return TrainResult(run.history, run.steps, run.best or 0.0, run.best_epoch or 0, outputs.path)


class _Trainer:
    """What `fit` and evaluation need to know of each other."""

    def __init__(
        self,
        model: keras.Model,
        data: tuple[Source, Source],
        plan: TrainingPlan,
        run: Run,
        outputs: Outputs,
        setup: Setup,
        interruption: Interruption,
    ) -> None:
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


def _compile(
    model: TrainedModel, plan: TrainingPlan, steps_per_execution: int, jit_compile: bool | None
) -> None:
    recipe = plan.recipe
    optimizer = make_optimizer(recipe.optimizer, make_schedule(recipe, 1))
    # Keras would do so by itself only if the model were float16, not just its layers.
    if any(layer.compute_dtype == "float16" for layer in model.layers):
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(model.trainable_variables)
    if jit_compile is None:
        jit_compile = keras.backend.backend() == "jax"
    model.compile(
        optimizer,
        loss=make_loss(recipe.loss),
        weighted_metrics=make_metrics(model.output_shape[-1]),
        steps_per_execution=steps_per_execution,
        jit_compile=jit_compile,
    )


def _open(
    data: tuple[Source, Source] | DataConfig | str,
) -> tuple[tuple[Source, Source], Mapping[str, Any]]:
    """Both parts of the data, and the settings that are not a recipe's."""
    if isinstance(data, (DataConfig, str)):
        config = DataConfig(data) if isinstance(data, str) else data
        names = ("max_bad_fraction", "shuffle_block", "drop_remainder")
        return load_data(config), {name: getattr(config, name) for name in names}
    return data, {}


def _check_classes(model: keras.Model, source: Source) -> None:
    classes = len(source.class_names)
    if model.output_shape[-1] != classes:
        raise ValueError(
            f"Expected a model of the {classes} classes of {source.name}. Received: "
            f"{model.name}, of {model.output_shape[-1]} classes. Build it with `classes={classes}`"
        )


def _check_accumulation(recipe: Recipe, setup: Setup) -> None:
    if recipe.optimizer.accumulation > 1 and setup.replicas > 1:
        raise ValueError(
            "Expected `optimizer.accumulation=1` with several replicas, as Keras cannot accumulate "
            f"gradients over them. Received: {recipe.optimizer.accumulation} on {setup.replicas} "
            "replicas"
        )


def _precision(model: keras.Model, dtype: str | None) -> Any:
    """What `choose` calls it."""
    if dtype is not None:
        return policy_of(dtype).removeprefix("mixed_")
    computed = {layer.compute_dtype for layer in model.layers}
    return next((name for name in ("float16", "bfloat16") if name in computed), "float32")
