"""`keras-resnet analyze lesion | responses | filters`: studies of a trained network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from keras_resnet.cli import checks, inputs, options
from keras_resnet.cli.analyze import analyze, results
from keras_resnet.evaluation.images import Split
from keras_resnet.support.checks import check_choice
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console

if TYPE_CHECKING:
    import keras

    from keras_resnet.analysis import PathStudy


Several = Annotated[
    str | None, typer.Option(help="Numbers of random blocks to delete together, e.g. 1,2,5.")
]
Swaps = Annotated[
    str | None, typer.Option(help="Numbers of random pairs of blocks to swap, e.g. 1,2,5.")
]
Delete = Annotated[
    list[str] | None,
    typer.Option(
        metavar="BLOCKS",
        help="Blocks to delete together, such as conv2_block2,conv3_block3; may be repeated.",
    ),
]
Swap = Annotated[
    list[str] | None,
    typer.Option(
        metavar="BLOCKS",
        help="Blocks to swap, such as conv3_block2,conv3_block4; may be repeated.",
    ),
]


@analyze.command()
def lesion(
    model: options.ModelArgument,
    data: options.Data,
    output: results.Output,
    weights: options.Weights = None,
    version: options.Version = None,
    shortcut: options.Shortcut = None,
    net: options.Net = None,
    images: results.Images = 1000,
    split: results.Split = "validation",
    max_bad_fraction: options.MaxBadFraction = 0.01,
    several: Several = None,
    swaps: Swaps = None,
    delete: Delete = None,
    swap: Swap = None,
    log_every: options.LogEvery = 60.0,
    overwrite: options.Overwrite = False,
    draws: Annotated[
        int, typer.Option(min=1, help="Random choices per number of --several and --swaps.")
    ] = 5,
    paths: Annotated[
        int | None,
        typer.Option(min=0, help="Paths of each length to measure; 0: none. [default: 10]"),
    ] = None,
    seed: results.Seed = 0,
) -> None:
    """Measure the error of a trained network without each of its blocks.

    For residual networks, also measures the gradient along paths of every length.
    """
    results.check_output(output, "lesion", overwrite)
    fields = inputs.network_options(version, shortcut, net)
    model = checks.check_model(model, weights, fields=fields, trained=True)
    checks.check_data(data)
    check_choice("split", split, get_args(Split))
    cuts = {
        name: checks.check_blocks(name, of) for name, of in (("delete", delete), ("swap", swap))
    }
    numbers = [options.parse_integers(text, 1) if text else () for text in (several, swaps)]
    network = inputs.load_network(model, weights, fields=fields)
    with quiet():
        from keras_resnet.analysis.studies.blocks import take_apart
        from keras_resnet.analysis.studies.figures import lesion_figure
        from keras_resnet.analysis.studies.images import labeled_images
        from keras_resnet.analysis.studies.lesion import chosen_lesions, lesion_study
    chosen: dict[str, Any] = {
        "several": numbers[0],
        "swaps": numbers[1],
        **cuts,
        "draws": draws,
        "seed": seed,
    }
    # Check the lesions before the images are read.
    chosen_lesions(take_apart(network), **chosen)
    labeled = labeled_images(
        network, data, images, split=split, seed=seed, max_bad_fraction=max_bad_fraction
    )
    found = _measured_paths(network, labeled, paths, seed)
    with results.watched("lesion", "classifying without the blocks") as keywords:
        study = lesion_study(network, labeled, **chosen, **keywords)
    values = {
        **{"model": model, "data": data, "split": split, "draws": draws, "seed": seed},
        **study.to_dict(),
        "paths": None if found is None else found.to_dict(),
    }
    results.save_study(output, "lesion", lesion_figure(study, found), values)
    worst = max(range(len(study.names)), key=study.errors.__getitem__)
    console.print(
        f"Top-1 error of the whole network: {study.error:.2%}. Without one block: "
        f"{min(study.errors):.2%} to {study.errors[worst]:.2%} (without {study.names[worst]})."
    )
    for item in study.chosen:
        console.print(f"{item.words}: {item.error:.2%}.")
    if found is not None:
        low, high = found.effective
        console.print(
            f"Of {2 ** len(found.blocks):,} paths, those through {low} to {high} residual branches "
            f"carry 95 % of the gradient; they are a share of {found.effective_paths:.3g} of all "
            "paths."
        )


def _measured_paths(
    network: keras.Model, labeled: Any, samples: int | None, seed: int
) -> PathStudy | None:
    """Return the path study of a network; None for plain and, by default, very deep networks."""
    with quiet():
        from keras_resnet.analysis.studies.blocks import take_apart
        from keras_resnet.analysis.studies.paths import path_study
    blocks = take_apart(network).blocks
    is_plain = any(block.residual is None for block in blocks)
    if samples == 0 or (samples is None and is_plain):
        return None
    if samples is None and len(blocks) > 60:
        console.print(
            f"Paths through {len(blocks)} blocks are not measured, which takes long. Pass --paths "
            "10 to measure ten of each length."
        )
        return None
    try:
        with results.watched("paths", "the gradient along paths") as keywords:
            return path_study(network, labeled, samples=samples or 10, seed=seed, **keywords)
    except ValueError as error:
        if samples is not None:
            raise
        console.print(f"Paths are not measured. {error}.")
        return None


@analyze.command()
def responses(
    model: options.ModelArgument,
    data: options.Data,
    output: results.Output,
    weights: options.Weights = None,
    version: options.Version = None,
    shortcut: options.Shortcut = None,
    net: options.Net = None,
    images: results.Images = 1000,
    split: results.Split = "validation",
    max_bad_fraction: options.MaxBadFraction = 0.01,
    seed: results.Seed = 0,
    log_every: options.LogEvery = 60.0,
    overwrite: options.Overwrite = False,
) -> None:
    """Measure the standard deviations of the 3x3 layers' responses (He et al. 2015, Figure 7)."""
    results.check_output(output, "responses", overwrite)
    fields = inputs.network_options(version, shortcut, net)
    model = checks.check_model(model, weights, fields=fields, trained=True)
    check_choice("split", split, get_args(Split))
    checks.check_data(data)
    network = inputs.load_network(model, weights, fields=fields)
    with quiet():
        from keras_resnet.analysis.studies.figures import responses_figure
        from keras_resnet.analysis.studies.images import labeled_images
        from keras_resnet.analysis.studies.responses import layer_responses
    pixels, _ = labeled_images(
        network, data, images, split=split, seed=seed, max_bad_fraction=max_bad_fraction
    )
    with results.watched("responses", "the responses") as keywords:
        found = layer_responses(network, pixels, **keywords)
    values = {"model": model, "data": data, "split": split, "seed": seed, **found.to_dict()}
    results.save_study(output, "responses", responses_figure(found), values)
    console.print(
        f"{len(found.names)} layers, with standard deviations from {min(found.deviations):.3f} to "
        f"{max(found.deviations):.3f}."
    )


@analyze.command()
def filters(
    model: options.ModelArgument,
    output: results.Output,
    weights: options.Weights = None,
    version: options.Version = None,
    shortcut: options.Shortcut = None,
    net: options.Net = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Draw the kernels of the first convolution."""
    results.check_output(output, "filters", overwrite)
    fields = inputs.network_options(version, shortcut, net)
    model = checks.check_model(model, weights, fields=fields, trained=True)
    network = inputs.load_network(model, weights, fields=fields)
    with quiet():
        from keras_resnet.analysis.studies.figures import filters_figure
        from keras_resnet.analysis.studies.responses import first_filters
    kernels = first_filters(network)
    results.save_study(output, "filters", filters_figure(kernels), {"filters": kernels.tolist()})
    console.print(f"{len(kernels)} kernels of {kernels.shape[1]}x{kernels.shape[2]} pixels.")
