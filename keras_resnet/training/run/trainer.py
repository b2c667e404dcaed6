"""A thin layer over `compile` and `model.fit` that can be interrupted and resumed to the bit."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnet.data import DataConfig, Source
from keras_resnet.data.identity import defaults_of_earlier, without_times
from keras_resnet.models.info import get_info, set_class_names, set_info
from keras_resnet.support.fingerprints import fingerprint_of_file, fingerprint_of_weights
from keras_resnet.training.devices.choices import StrategyName
from keras_resnet.training.devices.strategies import DeviceSetup, choose_strategy
from keras_resnet.training.metrics import make_metrics
from keras_resnet.training.optimizers.schedules import make_schedule
from keras_resnet.training.recipes.recipe import Recipe
from keras_resnet.training.recipes.table import find_recipe
from keras_resnet.training.run.copy import (
    compile_copy,
    precision_of,
    pull_to_start,
    training_copy,
)
from keras_resnet.training.run.environment import describe_environment
from keras_resnet.training.run.fitting import Fitting
from keras_resnet.training.run.folder import RunFolder
from keras_resnet.training.run.interruption import noting_signals
from keras_resnet.training.run.resolved import (
    DEFAULTS,
    ResolvedRecipe,
    check_classes,
    identity,
    open_data,
    resolve_recipe,
)
from keras_resnet.training.run.run import Run


@dataclass(frozen=True)
class TrainResult:
    """The result of a training run.

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
    strategy: StrategyName | DeviceSetup = "auto",
    dtype: str | None = None,
    synchronized_bn: bool = False,
    resume: bool = True,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoint_every: int | None = None,
    keep: int = 3,
    steps_per_execution: int = 1,
    jit_compile: bool | None = None,
    profile: tuple[int, int] | None = None,
    pull_to: Sequence[np.ndarray] | None = None,
    max_bad_fraction: float | None = None,
    verbose: bool = True,
) -> TrainResult:
    """Trains `model` in place by `recipe`.

    What is trained is a copy that puts out logits, in the precision `dtype`; the caller's model
    gets its weights in the end, and stays free of optimizer state. Where the recipe averages
    weights, these are the averages.

    With `out_dir`, the same call after an interruption, even by SIGKILL, goes on from the newest
    checkpoint: on one CPU machine, the weights are in the end the same to the bit as without the
    interruption, if the process has called `tf.config.experimental.enable_op_determinism()`.
    SIGTERM and Ctrl-C end the run after the step, with a checkpoint. Several workers and replicas
    average BN's moving statistics whenever they save or evaluate.

    Args:
        model: a functional classifier `(batch, height, width, 3)` -> `(batch, classes)` that ends
            with a softmax, a sigmoid or logits; of two classes, also one `(batch, 1)` that ends
            with a sigmoid or a logit, and is trained by binary cross-entropy. It takes over the
            names of the classes and the protocol of evaluation, see `get_info`.
        data: the images to train on, and those to evaluate after every epoch, which are used for
            nothing else but to choose `best.keras`; or what `load_data` takes. The recipe, the
            model and `seed` replace what a `DataConfig` says of images, batches and order.
        recipe: how; or a name in `RECIPES`.
        out_dir: folder for `config.json`, `environment.json`, `checkpoints/`, `best.keras`,
            `last.keras`, `history.csv`, `history.png`, `tensorboard/` and `model_card.md`. None:
            nothing is written.
        epochs: length of training instead of the recipe's, whose schedule is compressed in
            proportion.
        seed: of data order, augmentation, dropout and stochastic depth.
        strategy: devices; see `choose_strategy`. Several workers need what that returns, called
            before the model is built.
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
        pull_to: the weights that `loss.l2_sp` pulls to, as of `get_weights`; None: those that the
            model has.
        max_bad_fraction: share of the images that may be unreadable; they are skipped. None: as the
            `DataConfig` says, or 0.01.
        verbose: whether the optimizer, the figures of every epoch and the progress are printed.

    Raises:
        ValueError: model, data and recipe do not go together, an argument is impossible, or another
            worker was called otherwise: the message says what differs; or another process is at
            work in `out_dir`.
        ResumeError: `out_dir` holds a run with another model, recipe, data set, seed or dtype, or
            one without `config.json`.
        DivergedError: the loss became infinite, no number, or far larger than that of guessing.
        TooManyBadRecordsError: too many images cannot be read.
        TrainingInterrupted: a signal asked for an end; a `SystemExit` of code 143 or 130. For
            Ctrl-C in an interpreter or a notebook, it is a `KeyboardInterrupt`.
        ClusterError: another worker has ended.
        OSError: the disk is full, every checkpoint is damaged, or `out_dir` was moved or removed
            during the run.
    """
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
    sources, config = open_data(data, max_bad_fraction)
    check_classes(model, sources[0])
    start = _start(model, recipe, pull_to)
    set_class_names(model, sources[0].class_names, sources[0].class_ids)
    setup = _set_up(strategy, model, recipe, dtype, steps_per_execution, bool(jit_compile))
    resolved = resolve_recipe(
        model, sources[0], recipe, config=config, epochs=epochs, seed=seed,
        workers=setup.workers, steps_per_execution=steps_per_execution,
    )  # fmt: skip
    # How its accuracy is measured is how its images are to be prepared from now on.
    protocol = resolved.evaluation.eval_protocol
    set_info(model, dataclasses.replace(get_info(model), protocol=protocol))
    folder = None if out_dir is None else RunFolder(out_dir, keep)
    precision = precision_of(model, dtype)
    known = identity(model, sources, resolved, seed, precision, start)
    with (
        _begun(
            setup, model, known, folder, resume,
            synchronized_bn=synchronized_bn, jit_compile=jit_compile,
            steps_per_execution=steps_per_execution, checkpoint_every=checkpoint_every,
        ),
        noting_signals() as interruption,
        setup.explaining_lost_workers(),
        setup.scope(),
    ):  # fmt: skip
        copy = _compiled_copy(
            model, sources[0], resolved, setup, start,
            dtype=dtype, synchronized_bn=synchronized_bn, seed=seed,
            jit_compile=jit_compile, steps_per_execution=steps_per_execution,
        )  # fmt: skip
        run = Run(copy, resolved)
        fitting = Fitting(model, sources, resolved, run, folder, setup, interruption)
        fitting.fit(callbacks, checkpoint_every, profile, verbose and setup.is_chief)
        fitting.finish(recipe if epochs is None else resolved.recipe, seed, precision)
    path = None if folder is None else folder.path
    return TrainResult(run.history, run.steps, run.best or 0.0, run.best_epoch or 0, path)


#: Strategies under which every replica takes BN's statistics of its own part; JAX' does not.
_SEPARATE_STATISTICS = ("mirrored", "multi-worker", "tpu")


def _compiled_copy(
    model: keras.Model,
    source: Source,
    resolved: ResolvedRecipe,
    setup: DeviceSetup,
    start: Sequence[np.ndarray] | None,
    *,
    dtype: str | None,
    synchronized_bn: bool,
    seed: int,
    jit_compile: bool | None,
    steps_per_execution: int,
) -> keras.Model:
    """The copy of `model` that is trained, with optimizer, loss and metrics."""
    synchronized = synchronized_bn and setup.name in _SEPARATE_STATISTICS
    copy = training_copy(
        model, dtype=dtype, size=resolved.size, synchronized=synchronized, seed=seed
    )
    if start is not None:
        pull_to_start(copy, resolved.recipe.loss.l2_sp, start)
    compile_copy(
        copy,
        resolved.recipe,
        source,
        make_schedule(resolved.recipe, 1),
        jit_compile,
        weighted_metrics=make_metrics(copy.output_shape[-1]),
        steps_per_execution=steps_per_execution,
    )
    return copy


@contextlib.contextmanager
def _begun(
    setup: DeviceSetup,
    model: keras.Model,
    known: Mapping[str, Any],
    folder: RunFolder | None,
    resume: bool,
    **options: Any,
) -> Iterator[None]:
    """Holds the folder, and makes sure that all workers begin the same run in it.

    `known` identifies the run; `options` are what does not, but has to be the same on all workers.
    While a worker waits for others, signals end it.
    """
    # Of several workers, the chief writes.
    held = folder.held() if folder is not None and setup.is_chief else contextlib.nullcontext()
    with held:
        if setup.workers > 1:
            weights = fingerprint_of_weights(model.get_weights())[:16]
            in_folder = folder is not None
            facts = {**known, "weights": weights, "out_dir": in_folder, **options}
            setup.require_same(without_times(facts))
        if folder is not None and setup.is_chief:
            _claim(folder, known, resume)
        if folder is not None and setup.workers > 1:
            # One that does not see the chief's checkpoints would begin anew.
            newest = folder.checkpoints()[-1:]
            seen = {path.name: fingerprint_of_file(path)[:16] for path in newest}
            setup.require_same({"checkpoint in the output folder": seen})
        yield


def _claim(folder: RunFolder, known: Mapping[str, Any], resume: bool) -> None:
    """Prepares the folder, or makes sure that what it holds is this run."""
    if not resume and folder.read_config() is not None:
        raise ValueError(
            f"Expected a folder without a training run. Received: {folder.path}. Choose another "
            "one, or go on with it"
        )
    earlier = defaults_of_earlier(known, folder.read_config())
    folder.claim(known, "training run", {**DEFAULTS, **earlier})
    folder.write_environment(describe_environment())


def _start(
    model: keras.Model, recipe: Recipe, pull_to: Sequence[np.ndarray] | None
) -> list[np.ndarray] | None:
    """The weights that the loss pulls to, if it does."""
    if recipe.loss.l2_sp:
        return list(model.get_weights() if pull_to is None else pull_to)
    if pull_to is not None:
        raise ValueError("Expected `loss.l2_sp` above 0 with `pull_to`. Received: 0")
    return None


def _set_up(
    strategy: StrategyName | DeviceSetup,
    model: keras.Model,
    recipe: Recipe,
    dtype: str | None,
    steps_per_execution: int,
    jit_compile: bool,
) -> DeviceSetup:
    accumulation = recipe.optimizer.accumulation
    needs: dict[str, Any] = {
        "batch_size": recipe.batch_size // accumulation,
        "dtype": precision_of(model, dtype),
        "steps_per_execution": steps_per_execution,
        "jit_compile": jit_compile,
    }
    if isinstance(strategy, DeviceSetup):
        setup = strategy
        setup.require_trainable(**needs)
    else:
        setup = choose_strategy(strategy, **needs)
    if accumulation > 1 and setup.replicas > 1:
        raise ValueError(
            "Expected `optimizer.accumulation=1` with several replicas, as Keras cannot accumulate "
            f"gradients over them. Received: {accumulation} on {setup.replicas} replicas"
        )
    return setup
