"""`keras-resnet finetune`: a trained network learns the classes of other images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_resnet.cli import train as training
from keras_resnet.cli.export import Weights, export as export_model, keras_model
from keras_resnet.cli.options import app
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console

if TYPE_CHECKING:
    import keras

    from keras_resnet.data import Source
    from keras_resnet.training import Phase, Recipe

Model = Annotated[str, typer.Option(help="A .keras file, or a network of `keras-resnet list`.")]
Stages = Annotated[
    str,
    typer.Option(help="LEVEL:EPOCHS[:FACTOR of the learning rate], separated by commas."),
]
BN = Annotated[str, typer.Option(help="Batch normalisation: frozen or training.")]
Dropout = Annotated[float, typer.Option(min=0, max=0.99, help="Before a new head.")]
Compare = Annotated[bool, typer.Option(help="Find the accuracy of baselines first.")]
Size = Annotated[int | None, typer.Option(min=1, help="Of images, for a network by name.")]
Export = Annotated[
    str | None, typer.Option(help="Export the best network: targets, or all.", show_default=False)
]


@app.command()
def finetune(
    model: Model,
    data: training.Data,
    output: training.Output,
    weights: Weights = None,
    recipe: training.RecipeName = "finetune",
    stages: Stages = "head:3,backbone:7:0.1",
    bn: BN = "frozen",
    dropout: Dropout = 0.0,
    compare: Compare = True,
    batch_size: training.BatchSize = None,
    size: Size = None,
    seed: training.Seed = 0,
    settings: training.Settings = None,
    strategy: training.Strategy = "auto",
    dtype: training.Dtype = "float32",
    checkpoint_every: training.Every = None,
    keep: training.Keep = 3,
    validation_fraction: training.Fraction = 0.1,
    export: Export = None,
    deterministic: training.Deterministic = None,
) -> None:
    """Fine-tune a trained network. After an interruption, the same command goes on."""
    if not model.endswith(".keras") and weights is None:
        raise ValueError(
            "Expected `--weights` with the name of a network, which has random ones without. "
            f"Received: --model {model} alone"
        )
    chosen = training.recipe_of(recipe, settings, batch_size)
    phases = _phases(stages)
    if export is not None:
        _check_targets(export)
    training.seed_everything(seed, deterministic)
    with quiet():
        from keras_resnet.training import finetune as run
    network = network_of(model, weights, size, chosen)
    chosen_bn: Any = bn
    chosen_strategy: Any = strategy
    run(
        network,
        _sources(data, network, validation_fraction),
        output,
        recipe=chosen,
        phases=phases,
        bn=chosen_bn,
        dropout=dropout,
        compare=compare,
        seed=seed,
        strategy=chosen_strategy,
        dtype=dtype,
        checkpoint_every=checkpoint_every,
        keep=keep,
    )
    console.print(f"Best network: {output / 'best.keras'}. Last: {output / 'last.keras'}.")
    if export is not None:
        best, exported = str(output / "best.keras"), output / "exported"
        export_model(
            best, exported, export, calibration=data, validation_fraction=validation_fraction
        )


def _phases(text: str) -> list[Phase]:
    with quiet():
        from keras_resnet.training import Phase

    phases = []
    for part in text.split(","):
        level, *numbers = part.strip().split(":")
        try:
            epochs, rate = map(float, [*numbers, "1"] if len(numbers) == 1 else numbers)
            phases.append(Phase(level, epochs, rate))
        except ValueError as error:
            raise ValueError(
                "Expected `--stages` such as head:3,C5:2,backbone:5:0.1, each a level, epochs "
                f"above 0 and perhaps a factor above 0. Received: {text!r}"
            ) from error
    return phases


def _check_targets(text: str) -> None:
    """Refuses before the training what `export` would refuse after it."""
    with quiet():
        from keras_resnet.export import TARGETS
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in TARGETS and names != ["all"]]:
        raise ValueError(
            f"Expected targets of `--export` among {', '.join(TARGETS)}, or all. "
            f"Received: {', '.join(unknown)}"
        )


def _sources(data: str, network: keras.Model, validation_fraction: float) -> tuple[Source, Source]:
    from keras_resnet.data import DataConfig, load_data

    side = network.input_shape[1] or 224
    config = DataConfig(data, size=side, validation_fraction=validation_fraction)
    sources = load_data(config)
    console.print(
        f"{sources[0].name}: {len(sources[0]):,} images to train on, {len(sources[1]):,} to "
        f"validate, {len(sources[0].class_names)} classes."
    )
    return sources


def network_of(model: str, weights: str | None, size: int | None, recipe: Recipe) -> keras.Model:
    """A network that has learned something: of a `.keras` file, or by name with its weights."""
    if not model.endswith(".keras"):
        from keras_resnet.networks.builders import create_model

        shape = None if size is None else (size, size, 3)
        return create_model(model, weights=weights, input_shape=shape, **recipe.network)
    return network_of_file(model, weights, size, recipe)


def network_of_file(
    file: str, weights: str | None, size: int | None, recipe: Recipe
) -> keras.Model:
    """The network of a `.keras` file; refuses arguments that only networks by name have.

    Raises:
        ValueError: there are such arguments, or the file holds no network.
    """
    own = [name for name in recipe.citations if name.startswith("network.")]
    changed = [name for name in own if recipe.citations[name] == "set by the user"]
    if changed or size is not None:
        raise ValueError(
            "Expected neither `--size` nor `--set network.…` with a `.keras` file, whose network "
            f"is built. Received: {', '.join(changed) or f'--size {size}'}"
        )
    return keras_model(file, weights)
