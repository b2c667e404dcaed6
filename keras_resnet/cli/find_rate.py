"""`keras-resnet find-rate`: find a learning rate for a network, images and a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_resnet.cli import checks, inputs, options
from keras_resnet.cli.options import print_json
from keras_resnet.support.checks import MODEL_SUFFIXES
from keras_resnet.support.files import check_writable
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console, print_lines, progress_bar

if TYPE_CHECKING:
    import keras

    from keras_resnet.training import Recipe

Freeze = Annotated[
    str | None,
    typer.Option(
        help="Freeze the layers up to this level and all batch normalization, as in the first "
        "phase of `finetune`: stem, C2, C3, C4, C5 or backbone. By default, nothing is frozen."
    ),
]


@options.app.command("find-rate", rich_help_panel=options.TRAIN)
def find_rate(
    model: options.Model,
    data: options.Data,
    output: Annotated[Path, typer.Option(help="Write rates.csv and rates.png to this directory.")],
    recipe: options.Recipe = "finetune",
    weights: options.Weights = None,
    freeze: Freeze = None,
    lowest: Annotated[float, typer.Option(min=0, help="Start with this learning rate.")] = 1e-6,
    highest: Annotated[float, typer.Option(min=0, help="End with this learning rate.")] = 10.0,
    steps: Annotated[
        int, typer.Option(min=10, help="Train for this number of optimizer steps, at least 10.")
    ] = 100,
    batch_size: options.BatchSize = None,
    size: options.Size = None,
    version: options.Version = None,
    shortcut: options.Shortcut = None,
    net: options.Net = None,
    seed: options.Seed = 0,
    settings: options.RecipeSettings = None,
    validation_fraction: options.ValidationFraction = 0.1,
    max_bad_fraction: options.MaxBadFraction = 0.01,
    deterministic: options.Deterministic = None,
    log_every: options.LogEvery = 60.0,
    as_json: options.AsJson = False,
) -> int:
    """Find a learning rate by a short training with growing rates.

    The exit code is 1 if no rate can be suggested.
    """
    fields = inputs.network_options(version, shortcut, net)
    chosen = inputs.recipe_of(recipe, settings, batch_size, fields)
    model, _ = inputs.check_for_recipe(model, weights, size, chosen)
    checks.check_data(data)
    checks.check_level("freeze", freeze, "stem", "backbone")
    check_writable(output)
    inputs.seed_everything(seed, deterministic)
    with quiet():
        from keras_resnet.training import freeze as freeze_levels, unfreeze
        from keras_resnet.training.rate_finder import find_rate as run, rate_setting
    network, parts = _open(model, data, weights, size, validation_fraction, chosen)
    if any(layer.weights and not layer.trainable for layer in network.layers):
        # A file has the frozen layers of its training; `finetune` unfreezes them, too.
        unfreeze(network, bn="training" if freeze is None else "frozen")
    if freeze is not None:
        frozen = freeze_levels(network, freeze)
        if not as_json:
            print_lines(str(frozen))
    with progress_bar("Finding a rate", hidden=as_json) as step:
        curve = run(
            network,
            parts,
            chosen,
            lowest=lowest,
            highest=highest,
            steps=steps,
            seed=seed,
            folder=output,
            max_bad_fraction=max_bad_fraction,
            progress=step,
        )
    setting = None
    if curve.suggested is not None:  # Two digits, as the estimate is no more exact.
        setting = float(f"{rate_setting(chosen, curve.suggested):.2g}")
    if as_json:
        print_json({**curve.to_dict(), "setting": setting})
    else:
        console.print(f"{curve} {output / 'rates.png'} shows all {len(curve.rates)} steps.")
        if setting is not None:
            console.print(f"To train with it, pass --set optimizer.learning_rate={setting:g}")
    return 1 if setting is None else 0


def _open(
    model: str,
    data: str,
    weights: str | None,
    size: int | None,
    validation_fraction: float,
    recipe: Recipe,
) -> tuple[keras.Model, Any]:
    """Return the network, with a head for the classes of the data, and both parts of the data."""
    from keras_resnet.training.transfer.finetune import with_head

    if not model.endswith(MODEL_SUFFIXES) and weights is None:
        return inputs.new_network(model, data, size, validation_fraction, recipe, show=False)
    network = inputs.load_network(model, weights, size, inputs.fields_for(model, recipe))
    parts = inputs.load_images(data, network.input_shape[1], validation_fraction, show=False)
    return with_head(network, parts[0]), parts
