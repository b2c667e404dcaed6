"""`keras-resnet analyze degradation | shortcuts`: networks trained under one recipe."""

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
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from keras_resnet.analysis import TrainingStudy
    from keras_resnet.networks.config import ResNetConfig

Seeds = Annotated[str, typer.Option(help="One training per network and seed.")]
Epochs = Annotated[
    float | None, typer.Option(min=0, help="Length of each training; the schedule is compressed.")
]
Width = Annotated[
    float | None,
    typer.Option(
        min=0.01, help="Multiplies the width of the networks. [default: 0.25 for digits, else 1]"
    ),
]
StudyData = Annotated[str, typer.Option(help="Images, e.g. digits, folder:PATH, cifar:PATH.")]
StudyRecipe = Annotated[
    str | None,
    typer.Option(help="Of `keras-resnet recipes`; default: a short one for digits, else He's."),
]


@analyze.command()
def degradation(
    output: results.Output,
    data: StudyData = "digits",
    depths: Annotated[str, typer.Option(help="6n+2 layers each, or 18,34.")] = "8,32",
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
    configs = [basic_config(depth, None, width=width) for depth in layers]
    keywords = _keywords(
        *("degradation", data, configs[0], seeds, epochs, recipe, batch_size, size, width),
        *(settings, inputs.network_options(version, None, net)),
    )
    keywords["max_bad_fraction"] = max_bad_fraction
    with quiet():
        from keras_resnet.analysis.studies.degradation import degradation_study
        from keras_resnet.analysis.studies.figures import degradation_figure
    # The study itself says how long it takes.
    with results.watched("degradation", "all trainings") as watching:
        study = degradation_study(data, depths=layers, progress=watching["progress"], **keywords)
    _show(study, output, "degradation", degradation_figure)


@analyze.command()
def shortcuts(
    output: results.Output,
    data: StudyData = "digits",
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
    keywords = _keywords(
        *("shortcuts", data, config, seeds, epochs, recipe, batch_size, size, width, settings),
        inputs.network_options(version, None, net),
    )
    keywords["max_bad_fraction"] = max_bad_fraction
    with quiet():
        from keras_resnet.analysis.studies.degradation import shortcut_study
        from keras_resnet.analysis.studies.figures import shortcuts_figure
    with results.watched("shortcuts", "all trainings") as watching:
        study = shortcut_study(data, depth=depth, progress=watching["progress"], **keywords)
    _show(study, output, "shortcuts", shortcuts_figure)


def _keywords(
    study: str,
    data: str,
    config: ResNetConfig,
    seeds: str,
    epochs: float | None,
    recipe: str | None,
    batch_size: int | None,
    size: int | None,
    width: float,
    settings: list[str] | None,
    fields: dict[str, Any],
) -> dict[str, Any]:
    """The arguments that both studies have; `config` is that of one of the networks."""
    numbers = check_seeds(options.parse_integers(seeds, 0))
    checks.check_data(data)
    side = size or default_size(data, config)
    base = recipe or default_recipe(study, data, config, side)
    chosen = inputs.recipe_of(base, settings, batch_size, fields)
    check_network_fields(chosen.network)
    # What cannot be built is refused before TensorFlow is imported.
    config.replace(**chosen.network)
    inputs.seed_everything(numbers[0], None)
    return {
        "seeds": numbers,
        "epochs": epochs,
        "recipe": chosen,
        "size": side,
        "width": width,
        "say": console.print,
    }


def _show(
    study: TrainingStudy, output: Path, name: str, draw: Callable[[TrainingStudy], Figure]
) -> None:
    """Writes the picture and the JSON of a study, and prints its table and what it found."""
    rows = table(["network", "parameters", "MACs", "s per step", "training error", "test error"])
    for network in study.networks:
        errors = (network.said(network.train_error), network.said(network.test_error))
        cost = (f"{network.params:,}", f"{network.macs:,}", f"{network.seconds_per_step:.3f}")
        rows.add_row(network.name, *cost, *errors)
    console.print(rows)
    command = shlex.join(["keras-resnet", *sys.argv[1:]])
    results.save_study(output, name, draw(study), {"command": command, **study.to_dict()})
    for finding in study.findings.values():
        console.print(finding.sentence)
