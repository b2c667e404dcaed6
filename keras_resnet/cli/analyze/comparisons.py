"""`keras-resnet analyze degradation | shortcuts`: networks trained with the same recipe."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_resnet.analysis.studies.families import (
    basic_config,
    check_depths,
    check_network_fields,
    check_seeds,
    default_recipe,
    default_size,
    default_width,
)
from keras_resnet.cli import checks, inputs, options
from keras_resnet.cli.analyze import analyze, results
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console, table

if TYPE_CHECKING:
    from keras_resnet.networks.config import ResNetConfig

Seeds = Annotated[str, typer.Option(help="Seeds, separated by commas: one training each.")]
Epochs = Annotated[
    float | None, typer.Option(min=0, help="Length of each training; the schedule is scaled.")
]
Width = Annotated[
    float | None,
    typer.Option(
        min=0.01, help="Factor of the number of filters. [default: 0.25 for digits, else 1]"
    ),
]
StudyRecipe = Annotated[
    str | None,
    typer.Option(
        help="A recipe of `keras-resnet recipes`. [default: a short one for digits, else He's]"
    ),
]


@analyze.command()
def degradation(
    output: results.Output,
    data: options.Data = "digits",
    depths: Annotated[str, typer.Option(help="Depths of 6n+2 layers, or 18,34.")] = "8,32",
    seeds: Seeds = "0,1,2",
    epochs: Epochs = None,
    recipe: StudyRecipe = None,
    batch_size: options.BatchSize = None,
    size: options.Size = None,
    width: Width = None,
    version: options.Version = None,
    net: options.Net = None,
    settings: options.RecipeSettings = None,
    max_bad_fraction: options.MaxBadFraction = 0.01,
    log_every: options.LogEvery = 60.0,
    overwrite: options.Overwrite = False,
) -> None:
    """Train plain and residual networks of several depths (He et al. 2015, Figures 1, 4 and 6)."""
    results.check_output(output, "degradation", overwrite)
    layers = check_depths(options.parse_integers(depths, 1))
    width = width or default_width(data)
    config = basic_config(layers[0], None, width=width)
    fields = inputs.network_options(version, None, net)
    keywords = _keywords(
        "degradation", data, config, seeds, recipe, batch_size, size, settings, fields
    )
    keywords |= {"epochs": epochs, "width": width, "max_bad_fraction": max_bad_fraction}
    _run("degradation", output, data, depths=layers, **keywords)


@analyze.command()
def shortcuts(
    output: results.Output,
    data: options.Data = "digits",
    depth: Annotated[int, typer.Option(help="6n+2 layers, or 18 or 34.")] = 32,
    seeds: Seeds = "0,1,2",
    epochs: Epochs = None,
    recipe: StudyRecipe = None,
    batch_size: options.BatchSize = None,
    size: options.Size = None,
    width: Width = None,
    version: options.Version = None,
    net: options.Net = None,
    settings: options.RecipeSettings = None,
    max_bad_fraction: options.MaxBadFraction = 0.01,
    log_every: options.LogEvery = 60.0,
    overwrite: options.Overwrite = False,
) -> None:
    """Train a plain network and those with shortcuts A, B and C (He et al. 2015, Table 3)."""
    results.check_output(output, "shortcuts", overwrite)
    width = width or default_width(data)
    config = basic_config(depth, None, width=width)
    fields = inputs.network_options(version, None, net)
    keywords = _keywords(
        "shortcuts", data, config, seeds, recipe, batch_size, size, settings, fields
    )
    keywords |= {"epochs": epochs, "width": width, "max_bad_fraction": max_bad_fraction}
    _run("shortcuts", output, data, depth=depth, **keywords)


def _keywords(
    study: str,
    data: str,
    config: ResNetConfig,
    seeds: str,
    recipe: str | None,
    batch_size: int | None,
    size: int | None,
    settings: list[str] | None,
    fields: dict[str, Any],
) -> dict[str, Any]:
    """Return the seeds, recipe and image size of a study; `config` is of one of its networks."""
    numbers = check_seeds(options.parse_integers(seeds, 0))
    checks.check_data(data)
    side = size or default_size(data, config)
    base = recipe or default_recipe(study, data, config, side)
    chosen = inputs.recipe_of(base, settings, batch_size, fields)
    check_network_fields(chosen.network)
    # Checked before TensorFlow is imported.
    config.replace(**chosen.network)
    inputs.seed_everything(numbers[0], None)
    return {"seeds": numbers, "recipe": chosen, "size": side}


def _run(name: str, output: Path, data: str, **keywords: Any) -> None:
    """Run a study, save its figure and results, and print its table and findings."""
    with quiet():
        from keras_resnet.analysis.studies import degradation, figures
    studies: dict[str, tuple[Any, Any]] = {
        "degradation": (degradation.degradation_study, figures.degradation_figure),
        "shortcuts": (degradation.shortcut_study, figures.shortcuts_figure),
    }
    run, draw = studies[name]
    # Without `begin`: the study prints its own estimate of the time.
    with results.watched(name, "all trainings") as watching:
        study = run(data, say=console.print, progress=watching["progress"], **keywords)
    rows = table(["network", "parameters", "MACs", "s per step", "training error", "test error"])
    for network in study.networks:
        errors = (network.error_text(network.train_error), network.error_text(network.test_error))
        cost = (f"{network.params:,}", f"{network.macs:,}", f"{network.seconds_per_step:.3f}")
        rows.add_row(network.name, *cost, *errors)
    console.print(rows)
    command = shlex.join(["keras-resnet", *sys.argv[1:]])
    results.save_study(output, name, draw(study), {"command": command, **study.to_dict()})
    for finding in study.findings.values():
        console.print(finding.sentence)
