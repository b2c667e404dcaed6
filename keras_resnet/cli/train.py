"""`keras-resnet train`: train a network by a recipe."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_resnet.cli import checks, inputs, options
from keras_resnet.support.files import check_writable
from keras_resnet.support.intervals import accuracy_in_words
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console
from keras_resnet.training.devices.cluster import Cluster, cluster_from

if TYPE_CHECKING:
    from pathlib import Path

    from keras_resnet.training import Recipe, TrainResult
    from keras_resnet.training.devices.strategies import DeviceSetup

Epochs = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Train for this number of epochs, with the recipe's schedule compressed or stretched. "
        "By default, the recipe's.",
    ),
]
Workers = Annotated[
    str | None,
    typer.Option(
        help="Train together with these workers: HOST:PORT of all, separated by commas, the same "
        "on all of them. By default, those of TF_CONFIG or Slurm, if any."
    ),
]
WorkerIndex = Annotated[
    int | None, typer.Option(min=0, help="Be the worker with this position in --workers, from 0.")
]
SyncBN = Annotated[
    bool,
    typer.Option("--sync-bn", help="Compute batch normalization over the images of all devices."),
]
Executions = Annotated[
    int, typer.Option(min=1, help="Run this number of batches per call of the graph.")
]


@options.app.command(rich_help_panel=options.TRAIN)
def train(
    model: Annotated[
        str, typer.Option(help="Train the network of this name in `keras-resnet list`.")
    ],
    data: options.Data,
    recipe: options.Recipe,
    output: options.RunFolder,
    epochs: Epochs = None,
    batch_size: options.BatchSize = None,
    size: options.Size = None,
    version: options.Version = None,
    shortcut: options.Shortcut = None,
    net: options.Net = None,
    weights: options.Weights = None,
    seed: options.Seed = 0,
    settings: options.RecipeSettings = None,
    strategy: options.Strategy = "auto",
    workers: Workers = None,
    worker_index: WorkerIndex = None,
    tpu: Annotated[
        str | None, typer.Option(help="Train on the TPU with this name or address.")
    ] = None,
    dtype: options.Dtype = "float32",
    sync_bn: SyncBN = False,
    steps_per_execution: Executions = 1,
    xla: Annotated[bool | None, typer.Option(help="Compile the training step with XLA.")] = None,
    checkpoint_every: options.CheckpointEvery = None,
    keep: options.Keep = 3,
    validation_fraction: options.ValidationFraction = 0.1,
    max_bad_fraction: options.MaxBadFraction = 0.01,
    profile: Annotated[
        str | None,
        typer.Option(
            help="Profile the batches from FIRST to LAST for TensorBoard, given as FIRST,LAST. By "
            "default, do not profile."
        ),
    ] = None,
    deterministic: options.Deterministic = None,
    log_every: options.LogEvery = 60.0,
) -> None:
    """Train a network by a recipe. Run the same command again to resume."""
    first_and_last, fields = _profile(profile), inputs.network_options(version, shortcut, net)
    chosen = inputs.recipe_of(recipe, settings, batch_size, fields)
    model = _checked(model, weights, chosen, data)
    checks.check_strategy(strategy, dtype)
    cluster = cluster_from(workers, worker_index, os.environ)
    if cluster is None or cluster.index == 0:
        check_writable(output)
    setup = _setup(strategy, chosen, dtype, steps_per_execution, bool(xla), cluster, tpu)
    inputs.seed_everything(seed, deterministic)
    network, parts = inputs.new_network(
        model, data, size, validation_fraction, chosen, weights, show=setup.is_chief
    )
    from keras_resnet.training import train as run

    result = run(
        network,
        parts,
        chosen,
        output,
        epochs=epochs,
        seed=seed,
        strategy=setup,
        dtype=dtype,
        synchronized_bn=sync_bn,
        checkpoint_every=checkpoint_every,
        keep=keep,
        steps_per_execution=steps_per_execution,
        jit_compile=xla,
        profile=first_and_last,
        max_bad_fraction=max_bad_fraction,
    )
    if setup.is_chief:
        _print(result, len(parts[1]), output)


def _checked(model: str, weights: str | None, recipe: Recipe, data: str) -> str:
    """Return the name of the network, after all checks of it and the data."""
    checks.check_untrained(model)
    name = checks.check_network(model, weights)
    inputs.network_fields(name, recipe)
    checks.check_data(data)
    return name


def _print(result: TrainResult, held_out: int, output: Path) -> None:
    console.print(
        f"Best: {accuracy_in_words(result.best, held_out)} after epoch {result.best_epoch}, in "
        f"{output / 'best.keras'}. "
        f"Last: {result.history['val_accuracy'][-1]:.2%}, in {output / 'last.keras'}."
    )


def _setup(
    strategy: Any,
    recipe: Recipe,
    dtype: str,
    steps_per_execution: int,
    xla: bool,
    cluster: Cluster | None,
    tpu: str | None,
) -> DeviceSetup:
    """Return the devices; several workers have to connect before anything else in TensorFlow."""
    with quiet():
        from keras_resnet.training.devices.strategies import choose_strategy
    precision: Any = dtype.removeprefix("mixed_")
    return choose_strategy(
        strategy,
        batch_size=recipe.batch_size // recipe.optimizer.accumulation,
        dtype=precision,
        steps_per_execution=steps_per_execution,
        jit_compile=xla,
        cluster=cluster,
        tpu=tpu,
    )


def _profile(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, comma, last = text.partition(",")
    if not (comma and first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
        raise ValueError(
            "Expected `--profile` with the first and the last batch, such as 10,20. "
            f"Received: {text}"
        )
    return int(first), int(last)
