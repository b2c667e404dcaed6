"""`keras-resnet train`: trains a network by a recipe; the same command again goes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_resnet.cli.options import app, parse_settings
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console

if TYPE_CHECKING:
    from keras_resnet.training.devices.strategies import DeviceSetup
    from keras_resnet.training.recipes.recipe import Recipe

Model = Annotated[str, typer.Option(help="A network of `keras-resnet list`.")]
Data = Annotated[str, typer.Option(help="Images, e.g. digits, folder:PATH, cifar:PATH.")]
RecipeName = Annotated[str, typer.Option(help="A recipe of `keras-resnet recipes`.")]
Output = Annotated[Path, typer.Option(help="Folder of the run; the same again: go on.")]
Epochs = Annotated[float | None, typer.Option(help="Length; the schedule is compressed.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Global: over all devices.")]
Size = Annotated[int | None, typer.Option(min=1, help="Image height and width.")]
Weights = Annotated[str | None, typer.Option(help="To start from: a tag or a file.")]
Seed = Annotated[int, typer.Option(min=0, help="Of weights, data order, augmentation.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="A field of the recipe, e.g. --set optimizer.learning_rate=0.2."),
]
Strategy = Annotated[str, typer.Option(help="auto, cpu, gpu, mirrored, multi-worker or tpu.")]
Workers = Annotated[str | None, typer.Option(help="HOST:PORT,… of all, the same everywhere.")]
WorkerIndex = Annotated[int | None, typer.Option(min=0, help="Which of them this is, from 0.")]
Tpu = Annotated[str | None, typer.Option(help="Name or address of the TPU.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
SyncBN = Annotated[bool, typer.Option("--sync-bn", help="BN over all devices' images.")]
Executions = Annotated[int, typer.Option(min=1, help="Batches per call of the graph.")]
Xla = Annotated[bool | None, typer.Option(help="Compile the step with XLA.")]
Every = Annotated[int | None, typer.Option(min=1, help="Batches between checkpoints.")]
Keep = Annotated[int, typer.Option(min=1, help="Checkpoints that stay.")]
Fraction = Annotated[float, typer.Option(help="Of data without a validation part.")]
Profile = Annotated[str | None, typer.Option(help="FIRST,LAST batch for TensorBoard.")]
Deterministic = Annotated[
    bool | None, typer.Option(help="The same bits every time; the default without GPUs.")
]


@app.command()
def train(
    model: Model,
    data: Data,
    recipe: RecipeName,
    output: Output,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    size: Size = None,
    weights: Weights = None,
    seed: Seed = 0,
    settings: Settings = None,
    strategy: Strategy = "auto",
    workers: Workers = None,
    worker_index: WorkerIndex = None,
    tpu: Tpu = None,
    dtype: Dtype = "float32",
    sync_bn: SyncBN = False,
    steps_per_execution: Executions = 1,
    xla: Xla = None,
    checkpoint_every: Every = None,
    keep: Keep = 3,
    validation_fraction: Fraction = 0.1,
    profile: Profile = None,
    deterministic: Deterministic = None,
) -> None:
    """Train a network by a recipe. After an interruption, the same command goes on."""
    first_and_last = _profile(profile)
    chosen = recipe_of(recipe, settings, batch_size)
    setup = _setup(
        strategy, workers, worker_index, tpu, chosen, dtype, steps_per_execution, bool(xla)
    )
    seed_everything(seed, deterministic)
    parts, network = _open(model, data, size, weights, validation_fraction, chosen, setup)
    from keras_resnet.training import train as run_training

    result = run_training(
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
    )
    if setup.is_chief:
        console.print(
            f"Best: {result.best:.2%} after epoch {result.best_epoch}, in {output / 'best.keras'}. "
            f"Last: {result.history['val_accuracy'][-1]:.2%}, in {output / 'last.keras'}."
        )


def recipe_of(name: str, settings: list[str] | None, batch_size: int | None) -> Recipe:
    """The recipe of that name with what `--set` and `--batch-size` say."""
    with quiet():
        from keras_resnet.training import find_recipe, override
    changes = parse_settings(settings or [], none="none")
    if batch_size is not None:
        changes["batch_size"] = batch_size
    return override(find_recipe(name), changes)


def _setup(
    strategy: str,
    workers: str | None,
    index: int | None,
    tpu: str | None,
    recipe: Recipe,
    dtype: str,
    steps_per_execution: int,
    xla: bool,
) -> DeviceSetup:
    """Comes before anything else of TensorFlow, which several workers have to agree on first."""
    from keras_resnet.training.devices.cluster import cluster_from
    from keras_resnet.training.devices.strategies import choose_strategy

    precision: Any = dtype.removeprefix("mixed_")
    name: Any = strategy
    return choose_strategy(
        name,
        batch_size=recipe.batch_size // recipe.optimizer.accumulation,
        dtype=precision,
        steps_per_execution=steps_per_execution,
        jit_compile=xla,
        cluster=cluster_from(workers, index, os.environ),
        tpu=tpu,
    )


def seed_everything(seed: int, deterministic: bool | None) -> None:
    """Seeds weights and augmentation; without GPUs, the same bits come out every time."""
    import keras
    import tensorflow as tf

    if deterministic is None:
        deterministic = not tf.config.list_physical_devices("GPU")
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed)


def _open(
    model: str,
    data: str,
    size: int | None,
    weights: str | None,
    validation_fraction: float,
    recipe: Recipe,
    setup: DeviceSetup,
) -> tuple[Any, Any]:
    """Both parts of the data, and the network for their classes."""
    from keras_resnet.data import DataConfig, load_data
    from keras_resnet.networks.builders import create_model
    from keras_resnet.networks.table import get_config

    side = size or get_config(model, **recipe.network).default_size
    parts = load_data(DataConfig(data, size=side, validation_fraction=validation_fraction))
    classes = len(parts[0].class_names)
    if setup.is_chief:
        console.print(
            f"{parts[0].name}: {len(parts[0]):,} images to train on, {len(parts[1]):,} to "
            f"validate, {classes} classes."
        )
    network = create_model(
        model, weights=weights, classes=classes, input_shape=(side, side, 3), **recipe.network
    )
    return parts, network


def _profile(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, comma, last = text.partition(",")
    if not (comma and first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
        raise ValueError(f"Expected `--profile FIRST,LAST`, e.g. 10,20. Received: {text}")
    return int(first), int(last)
