"""`keras-resnet compress`: prune, cluster or quantize a trained network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_resnet.cli import checks, inputs, options
from keras_resnet.compression.options import CompressionOptions
from keras_resnet.models.archive import check_model_file
from keras_resnet.support.files import check_writable
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console

if TYPE_CHECKING:
    from keras_resnet.training import Recipe

Methods = Annotated[
    str,
    typer.Option(
        "--method",
        help="Compress by this method: prune, cluster or qat (quantization-aware training), or by "
        "several in this order, such as prune,qat.",
    ),
]
Sparsity = Annotated[
    float,
    typer.Option(
        min=0, max=0.99, help="Prune this share of the weights. The pattern 2:4 prunes one half."
    ),
]
Pattern = Annotated[
    str, typer.Option(help="Prune weights by this pattern: unstructured, 2:4 or block.")
]
Clusters = Annotated[
    int, typer.Option(min=2, max=256, help="Cluster each layer to this number of distinct weights.")
]
Epochs = Annotated[float, typer.Option(help="Train for this number of epochs with each method.")]
FrozenBN = Annotated[
    float,
    typer.Option(
        "--frozen-bn",
        help="Continue qat for this number of epochs with frozen batch normalization.",
    ),
]
Settle = Annotated[
    float,
    typer.Option(
        help="End qat with this number of epochs with frozen batch normalization and fixed ranges."
    ),
]
Skip = Annotated[
    list[str] | None,
    typer.Option(
        "--skip",
        "--keep-float",
        help="Leave this layer uncompressed and in float. May be repeated.",
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        help="Compress with native, this package's own code, or with tfmot, which is "
        "tensorflow-model-optimization and takes one method at a time."
    ),
]


@options.app.command(rich_help_panel=options.TRAIN)
def compress(
    model: Annotated[Path, typer.Argument(help="The .keras or .h5 file of a trained network.")],
    data: options.Data,
    output: options.RunFolder,
    method: Methods = "qat",
    recipe: options.Recipe = "finetune",
    sparsity: Sparsity = 0.8,
    pattern: Pattern = "unstructured",
    clusters: Clusters = 16,
    epochs: Epochs = 3.0,
    frozen_bn: FrozenBN = 0.0,
    settle: Settle = 1.0,
    rate: Annotated[
        float, typer.Option(help="Multiply the recipe's learning rate by this factor.")
    ] = 0.1,
    skip: Skip = None,
    engine: Engine = "native",
    batch_size: options.BatchSize = None,
    seed: options.Seed = 0,
    settings: options.RecipeSettings = None,
    checkpoint_every: options.CheckpointEvery = None,
    validation_fraction: options.ValidationFraction = 0.1,
    max_bad_fraction: options.MaxBadFraction = 0.01,
    deterministic: options.Deterministic = None,
    log_every: options.LogEvery = 60.0,
    seconds: options.TimingSeconds = 1.0,
    as_json: options.AsJson = False,
) -> None:
    """Prune, cluster or quantize a trained network. Run the same command again to resume."""
    names = tuple(part.strip() for part in method.split(","))
    numbers = (clusters, epochs, frozen_bn, settle, rate)
    values: tuple[Any, ...] = (names, sparsity, pattern, *numbers, tuple(skip or ()), engine)
    wanted = CompressionOptions(*values)
    chosen = _recipe(recipe, settings, batch_size)
    check_model_file(model)
    checks.check_data(data)
    check_writable(output)
    inputs.seed_everything(seed, deterministic)
    with quiet():
        from keras_resnet.export.report.timing import Timing
        from keras_resnet.jobs.compress import compress as run
        from keras_resnet.jobs.compression_report import CompressionError
        from keras_resnet.models.saving import load_model
    console.quiet = as_json  # Standard output has to be JSON alone.
    failure = None
    try:
        report = run(
            load_model(model, compile=False), data, output, wanted, recipe=chosen,
            validation_fraction=validation_fraction, max_bad_fraction=max_bad_fraction,
            say=inputs.say, seed=seed, timing=Timing(seconds=seconds) if seconds else None,
            checkpoint_every=checkpoint_every,
        )  # fmt: skip
    except CompressionError as error:
        report, failure = error.report, error
    finally:
        console.quiet = False
    options.print_report(report, as_json)
    if not as_json:
        console.print(f"Network: {output / 'model.keras'}. Artifacts: {output / 'after'}.")
    if failure is not None:
        raise failure


def _recipe(name: str, settings: list[str] | None, batch_size: int | None) -> Recipe:
    """Return the recipe; raise ValueError if the user sets fields that compression ignores."""
    recipe = inputs.recipe_of(name, settings, batch_size)
    if ignored := inputs.set_by_user(recipe, "network.", "schedule.", "duration", "patience"):
        raise ValueError(
            "Expected `--set` without fields of the network and the schedule, the duration and the "
            f"patience, which compression decides itself. Received: {', '.join(ignored)}"
        )
    return recipe
