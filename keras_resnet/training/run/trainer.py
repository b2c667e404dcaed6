"""`train()`: training by a recipe with `model.fit`, which can be interrupted and resumed."""

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
        history: quantity -> one value per epoch: `loss`, `accuracy`, `val_loss`, `val_accuracy`;
            with more than five classes also `top5_accuracy` and `val_top5_accuracy`; and
            `learning_rate`, the rate of the step after the epoch. Accuracies are in [0, 1].
        steps: optimizer steps taken, including those before an interruption.
        best: highest validation accuracy, in [0, 1].
        best_epoch: epoch of the highest validation accuracy, counted from 1.
        folder: output folder of the run; None if there is none.
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
    """Train a model by a recipe, in place.

    A copy of the model with logits as outputs is trained in the precision `dtype`. `model` gets its
    weights at the end (their moving averages, if the recipe has them), but no optimizer state.

    With `out_dir`, the same call resumes an interrupted run from its last saved state, even after
    SIGKILL. On one machine with a CPU, the final weights are then bit-identical to those of an
    uninterrupted run, provided that the process has called
    `tf.config.experimental.enable_op_determinism()`. SIGTERM and Ctrl-C end the run after the
    current step and save its state. With several replicas, the moving statistics of BN are averaged
    over them before every evaluation and before every state is saved.

    Args:
        model: a functional classifier `(batch, height, width, 3)` -> `(batch, classes)` that ends
            with a softmax, a sigmoid or logits; or, for two classes, `(batch, 1)` with a sigmoid or
            a logit, which is trained with binary cross-entropy. The class names and the evaluation
            protocol become part of what `get_info` returns for it.
        data: a pair of sources of training and validation images, or whatever `load_data` takes.
            The model is evaluated on the validation images after every epoch, which only affects
            `best.keras`, early stopping and a plateau schedule. The recipe, the model and `seed`
            replace the image size, batches and order of a `DataConfig`.
        recipe: the recipe, or its name in `RECIPES`.
        out_dir: output folder for `config.json`, `environment.json`, `checkpoints/` (the saved
            states), `best.keras`, `last.keras`, `history.csv`, `history.png`, `tensorboard/` and
            `model_card.md`. None: nothing is written.
        epochs: length of training in epochs instead of the recipe's; the schedule is scaled in
            proportion.
        seed: random seed of data order, augmentation, dropout and stochastic depth.
        strategy: the devices to train on; see `choose_strategy`. For several workers, call
            `choose_strategy` before the model is built and pass its result.
        dtype: `"float32"`, `"bfloat16"` or `"float16"` (with loss scaling); None: the precision of
            the model.
        synchronized_bn: whether BN uses the statistics of the whole batch instead of each replica's
            part.
        resume: whether to resume the run in `out_dir`. If False, `out_dir` must not contain a run.
        callbacks: further Keras callbacks, called after the evaluation of an epoch. In a resumed
            run, `on_train_begin` is called once for the rest of the epoch and once for the epochs
            after it. The state of callbacks is not saved.
        checkpoint_every: number of batches after which the state is saved; None: after every epoch
            only.
        keep: number of saved states to keep.
        steps_per_execution: batches that are run between two callbacks; a divisor of the batches
            per epoch.
        jit_compile: whether XLA compiles the training step; None: only under JAX.
        profile: first and last batch that the profiler of TensorBoard records.
        pull_to: weights that `loss.l2_sp` pulls to, in the order of `model.get_weights()`; None:
            those of `model`.
        max_bad_fraction: largest share of unreadable images, in [0, 1]; they are skipped. None: as
            in the `DataConfig`, or 0.01.
        verbose: whether to print the optimizer, the metrics of every epoch and the progress.

    Returns:
        The history and the best epoch.

    Raises:
        ValueError: If model, data and recipe do not fit together, an argument has an invalid value,
            another worker has different arguments, or another process is using `out_dir`.
        ResumeError: If `out_dir` holds a run with another model, recipe, data set, seed or dtype,
            or one without `config.json`.
        DivergedError: If the loss becomes infinite, NaN, or much larger than that of random
            guessing.
        TooManyBadRecordsError: If too many images cannot be read.
        TrainingInterrupted: After SIGTERM or Ctrl-C; a `SystemExit` with code 143 or 130. For
            Ctrl-C in an interpreter or a notebook, a `KeyboardInterrupt` is raised instead.
        ClusterError: If another worker has ended.
        OSError: If the disk is full, every saved state is damaged, or `out_dir` is moved or removed
            during the run.

    Examples:
        >>> model = keras_resnet.ResNet20(classes=10)
        >>> result = train(model, "digits", "quick-digits", "runs/digits", epochs=3)
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
    # From now on, images for the model are prepared as in validation.
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


#: Strategies under which each replica computes BN statistics of its own part of a batch.
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
    """Return the copy of `model` to train, compiled with optimizer, loss and metrics."""
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
    """Lock the folder in the context, and check that all workers begin the same run in it.

    `known` identifies the run; `options` do not, but have to be equal on all workers. Signals end a
    worker that waits for others.
    """
    # With several workers, only the chief writes.
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
            # A worker that does not see the states of the chief would start from the beginning.
            newest = folder.state_files()[-1:]
            seen = {path.name: fingerprint_of_file(path)[:16] for path in newest}
            setup.require_same({"saved state in the output folder": seen})
        yield


def _claim(folder: RunFolder, known: Mapping[str, Any], resume: bool) -> None:
    """Write the config of a new run, or check that the folder holds this run."""
    if not resume and folder.read_config() is not None:
        raise ValueError(
            f"Expected a folder without a training run. Received: {folder.path}. Choose another "
            "folder, or resume the run with `resume=True`"
        )
    earlier = defaults_of_earlier(known, folder.read_config())
    folder.claim(known, "training run", {**DEFAULTS, **earlier})
    folder.write_environment(describe_environment())


def _start(
    model: keras.Model, recipe: Recipe, pull_to: Sequence[np.ndarray] | None
) -> list[np.ndarray] | None:
    """Return the weights that `loss.l2_sp` pulls to; None if the recipe has no such penalty."""
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
            "Expected `optimizer.accumulation=1` with several replicas, on which Keras cannot "
            f"accumulate gradients. Received: {accumulation} on {setup.replicas} replicas"
        )
    return setup
