"""`keras-resnet finetune`: fine-tune a trained network on other images."""

from __future__ import annotations

from typing import Annotated, Any, get_args

import typer

from keras_resnet.cli import checks, inputs, options
from keras_resnet.support.checks import check_choice
from keras_resnet.support.files import check_writable
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console
from keras_resnet.training.transfer.choices import BNMode, Phase

Phases = Annotated[
    str,
    typer.Option(
        help="Train in these phases, separated by commas, each LEVEL:EPOCHS or "
        "LEVEL:EPOCHS:FACTOR. The layers from the head down to LEVEL train: head, C5, C4, C3, C2, "
        "stem or backbone. FACTOR multiplies the learning rate."
    ),
]
Export = Annotated[
    str | None,
    typer.Option(
        help="Export the best network to these targets, separated by commas, or to all. By "
        "default, do not export.",
        show_default=False,
    ),
]


@options.app.command(rich_help_panel=options.TRAIN)
def finetune(
    model: options.Model,
    data: options.Data,
    output: options.RunFolder,
    weights: options.Weights = None,
    recipe: options.Recipe = "finetune",
    phases: Phases = "head:3,backbone:7:0.1",
    bn: Annotated[
        str, typer.Option(help="Keep batch normalization frozen, or let it train: training.")
    ] = "frozen",
    dropout: Annotated[
        float, typer.Option(min=0, max=0.99, help="Apply dropout with this rate before a new head.")
    ] = 0.0,
    compare: Annotated[
        bool, typer.Option(help="Measure the accuracy of simple baselines first.")
    ] = True,
    batch_size: options.BatchSize = None,
    size: options.Size = None,
    version: options.Version = None,
    shortcut: options.Shortcut = None,
    net: options.Net = None,
    seed: options.Seed = 0,
    settings: options.RecipeSettings = None,
    strategy: options.Strategy = "auto",
    dtype: options.Dtype = "float32",
    checkpoint_every: options.CheckpointEvery = None,
    keep: options.Keep = 3,
    validation_fraction: options.ValidationFraction = 0.1,
    max_bad_fraction: options.MaxBadFraction = 0.01,
    export: Export = None,
    deterministic: options.Deterministic = None,
    log_every: options.LogEvery = 60.0,
) -> None:
    """Fine-tune a trained network on other images. Run the same command again to resume."""
    fields = inputs.network_options(version, shortcut, net)
    chosen = inputs.recipe_of(recipe, settings, batch_size, fields)
    model, changed = inputs.check_for_recipe(model, weights, size, chosen, trained=True)
    checks.check_data(data)
    checks.check_strategy(strategy, dtype)
    targets = [] if export is None else checks.check_targets(export)
    parsed = _phases(phases)
    check_choice("bn", bn, get_args(BNMode))
    check_writable(output)
    inputs.seed_everything(seed, deterministic)
    with quiet():
        from keras_resnet.data import DataConfig
        from keras_resnet.training import finetune as run
    network = inputs.load_network(model, weights, size, changed)
    chosen_bn: Any = bn
    chosen_strategy: Any = strategy
    run(
        network,
        inputs.load_images(data, network.input_shape[1], validation_fraction),
        output,
        recipe=chosen,
        phases=parsed,
        bn=chosen_bn,
        dropout=dropout,
        compare=compare,
        seed=seed,
        strategy=chosen_strategy,
        dtype=dtype,
        checkpoint_every=checkpoint_every,
        keep=keep,
        max_bad_fraction=max_bad_fraction,
        say=inputs.say,
    )
    console.print(f"Best network: {output / 'best.keras'}. Last: {output / 'last.keras'}.")
    if export is not None:
        best = inputs.load_network(str(output / "best.keras"), None)
        calibration = DataConfig(
            data, validation_fraction=validation_fraction, max_bad_fraction=max_bad_fraction
        )
        inputs.export_network(best, output / "exported", targets, calibration=calibration)


def _phases(text: str) -> list[Phase]:
    phases = []
    for part in text.split(","):
        level, *numbers = part.strip().split(":")
        try:
            epochs, rate = map(float, [*numbers, "1"] if len(numbers) == 1 else numbers)
            phases.append(Phase(level, epochs, rate))
        except ValueError as error:
            raise ValueError(
                "Expected `--phases` such as head:3,C5:2,backbone:5:0.1, each with a level, a "
                "number of epochs above 0 and optionally a factor above 0. "
                f"Received: {text!r}"
            ) from error
        checks.check_level("phases", level, "head", "stem", "backbone")
    return phases
