"""`keras-resnet finetune`: a trained network learns the classes of other images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from keras_resnet.cli import train as training
from keras_resnet.cli.app import app
from keras_resnet.cli.export import Weights, keras_model
from keras_resnet.quiet import quiet
from keras_resnet.terminal import console

Model = Annotated[str, typer.Option(help="A .keras file, or a network of `keras-resnet list`.")]
Stages = Annotated[
    str,
    typer.Option(help="LEVEL:EPOCHS[:FACTOR of the learning rate], separated by commas."),
]
BN = Annotated[str, typer.Option(help="Batch normalisation: frozen or training.")]
Dropout = Annotated[float, typer.Option(min=0, max=0.99, help="Before a new head.")]
Compare = Annotated[bool, typer.Option(help="Find the accuracy of baselines first.")]
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
    size: training.Size = None,
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
    parts = _stages(stages)
    training.seed_everything(seed, deterministic)
    with quiet():
        from keras_resnet.data import DataConfig, load_data
        from keras_resnet.training.transfer.finetune import finetune as run
    network = keras_model(model, weights, None, seed)
    side = size or network.input_shape[1] or 224
    sources = load_data(DataConfig(data, size=side, validation_fraction=validation_fraction))
    chosen_bn: Any = bn
    run(
        network,
        sources,
        output,
        recipe=chosen,
        stages=parts,
        bn=chosen_bn,
        dropout=dropout,
        compare=compare,
        seed=seed,
        strategy=strategy,
        dtype=dtype,
        checkpoint_every=checkpoint_every,
        keep=keep,
    )
    console.print(f"Best network: {output / 'best.keras'}. Last: {output / 'last.keras'}.")
    if export is not None:
        _export(output, export, data)


def _stages(text: str) -> list[Any]:
    from keras_resnet.training.transfer.finetune import Stage

    stages = []
    for part in text.split(","):
        level, *numbers = part.strip().split(":")
        try:
            epochs, rate = [*map(float, numbers), 1.0][:2] if numbers else (0.0, 1.0)
            stages.append(Stage(level, epochs, rate))
        except ValueError as error:
            raise ValueError(
                "Expected stages such as head:3,C5:2,backbone:5:0.1, levels with epochs above 0. "
                f"Received: {text!r}"
            ) from error
    return stages


def _export(output: Path, targets: str, data: str) -> None:
    from keras_resnet.cli.export import export

    export(str(output / "best.keras"), output / "exported", targets, calibration=data)
