"""`keras-resnet compress`: a trained network is made smaller."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_resnet.cli import train as training
from keras_resnet.cli.options import app
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console

if TYPE_CHECKING:
    from keras_resnet.jobs.compression_report import CompressionReport
    from keras_resnet.training import Recipe

Model = Annotated[Path, typer.Argument(help="A .keras file of a trained network.")]
Methods = Annotated[
    str, typer.Option("--method", help="prune, cluster, qat, or several in this order: prune,qat.")
]
Sparsity = Annotated[float, typer.Option(min=0, max=0.99, help="Share of zeros, of prune.")]
Pattern = Annotated[str, typer.Option(help="unstructured, 2:4 or block, of prune.")]
Clusters = Annotated[int, typer.Option(min=2, max=256, help="Different weights of a layer.")]
Epochs = Annotated[float, typer.Option(help="Of training, for each method.")]
FrozenBN = Annotated[
    float, typer.Option("--frozen-bn", help="Further ones after qat, with fixed normalisation.")
]
Settle = Annotated[float, typer.Option(help="Then, with fixed ranges as well.")]
Rate = Annotated[float, typer.Option(help="Factor of the recipe's learning rate.")]
Skip = Annotated[list[str] | None, typer.Option(help="A layer to leave alone; repeatable.")]
Time = Annotated[bool, typer.Option(help="Measure latency.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]


@app.command()
def compress(
    model: Model,
    data: training.Data,
    output: training.Output,
    method: Methods = "qat",
    recipe: training.RecipeName = "finetune",
    sparsity: Sparsity = 0.8,
    pattern: Pattern = "unstructured",
    clusters: Clusters = 16,
    epochs: Epochs = 3.0,
    frozen_bn: FrozenBN = 0.0,
    settle: Settle = 1.0,
    rate: Rate = 0.1,
    skip: Skip = None,
    batch_size: training.BatchSize = None,
    seed: training.Seed = 0,
    settings: training.Settings = None,
    checkpoint_every: training.Every = None,
    validation_fraction: training.Fraction = 0.1,
    deterministic: training.Deterministic = None,
    time: Time = True,
    as_json: Json = False,
) -> None:
    """Prune, cluster or quantize a network while training it. The same command goes on."""
    chosen = training.recipe_of(recipe, settings, batch_size)
    _check(chosen)
    training.seed_everything(seed, deterministic)
    with quiet():
        from keras_resnet.export.report.timing import Timing
        from keras_resnet.jobs.compress import compress as run
        from keras_resnet.jobs.compression_report import CompressionError, CompressionOptions
        from keras_resnet.models.saving import load_model
    names: Any = tuple(part.strip() for part in method.split(","))
    how: Any = pattern
    options = CompressionOptions(
        names, sparsity, how, clusters, epochs, frozen_bn, settle, rate, tuple(skip or ())
    )
    # A program that reads JSON wants nothing else.
    console.quiet = as_json
    failure = None
    try:
        found = run(
            load_model(model, compile=False),
            data,
            output,
            options,
            recipe=chosen,
            validation_fraction=validation_fraction,
            seed=seed,
            timing=Timing() if time else None,
            checkpoint_every=checkpoint_every,
        )
    except CompressionError as error:
        found, failure = error.report, error
    finally:
        console.quiet = False
    _show(found, output, as_json)
    if failure is not None:
        raise failure


def _show(report: CompressionReport, output: Path, as_json: bool) -> None:
    if as_json:
        console.print_json(data=report.to_dict())
        return
    console.print(report.to_table())
    console.print(f"The network: {output / 'model.keras'}. Artifacts: {output / 'after'}.")


def _check(recipe: Recipe) -> None:
    """Refuses what would be ignored: the network is there, and its schedule is our own."""
    ignored = ("network.", "schedule.", "duration", "patience")
    changed = [
        name
        for name, source in recipe.citations.items()
        if name.startswith(ignored) and source == "set by the user"
    ]
    if changed:
        raise ValueError(
            "Expected no `--set` of the network, the schedule, the duration or patience, which "
            f"compression has its own of. Received: {', '.join(changed)}"
        )
