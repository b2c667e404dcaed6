"""`keras-resnet analyze lesion | responses | filters`: studies of a trained network."""

from __future__ import annotations

from typing import Annotated

import typer

from keras_resnet.cli import checks, inputs, options
from keras_resnet.cli.analyze import analyze, results
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console, progress_bar


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
    several: results.Numbers = None,
    swaps: results.Numbers = None,
    log_every: options.LogEvery = 60.0,
    draws: Annotated[int, typer.Option(min=1, help="Random choices per number.")] = 5,
    seed: results.Seed = 0,
) -> None:
    """Delete every block of a trained network in turn, and measure its error without it."""
    fields = inputs.network_options(version, shortcut, net)
    model = checks.check_model(model, weights, fields=fields, trained=True)
    checks.check_data(data)
    numbers = [options.parse_integers(text, 1) if text else () for text in (several, swaps)]
    network = inputs.load_network(model, weights, fields=fields)
    with quiet():
        from keras_resnet.analysis.studies.figures import lesion_figure
        from keras_resnet.analysis.studies.images import labelled_images
        from keras_resnet.analysis.studies.lesion import lesion_study
    pixels, labels = labelled_images(network, data, images, split=split, seed=seed)
    with progress_bar("lesion", lines=10) as step:
        study = lesion_study(
            network,
            (pixels, labels),
            several=numbers[0],
            swaps=numbers[1],
            draws=draws,
            seed=seed,
            progress=results.with_time_left(step),
        )
    asked = {"model": model, "data": data, "split": split, "draws": draws, "seed": seed}
    results.save_study(output, "lesion", lesion_figure(study), {**asked, **study.to_dict()})
    worst = max(range(len(study.names)), key=study.errors.__getitem__)
    console.print(
        f"Top-1 error of the whole network: {study.error:.2%}. Without one block: "
        f"{min(study.errors):.2%} to {study.errors[worst]:.2%} (without {study.names[worst]})."
    )


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
    seed: results.Seed = 0,
) -> None:
    """Measure the standard deviations of the 3x3 layers' responses (He et al. 2015, Figure 7)."""
    fields = inputs.network_options(version, shortcut, net)
    checks.check_data(data)
    network = inputs.load_network(model, weights, fields=fields)
    with quiet():
        from keras_resnet.analysis.studies.figures import responses_figure
        from keras_resnet.analysis.studies.images import labelled_images
        from keras_resnet.analysis.studies.responses import layer_responses
    found = layer_responses(
        network, labelled_images(network, data, images, split=split, seed=seed)[0]
    )
    asked = {"model": model, "data": data, "split": split, "seed": seed}
    results.save_study(output, "responses", responses_figure(found), {**asked, **found.to_dict()})
    console.print(
        f"{len(found.names)} layers, standard deviations of {min(found.deviations):.3f} to "
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
) -> None:
    """Show the first layer's kernels as a picture."""
    fields = inputs.network_options(version, shortcut, net)
    network = inputs.load_network(model, weights, fields=fields)
    with quiet():
        from keras_resnet.analysis.studies.figures import filters_figure
        from keras_resnet.analysis.studies.responses import first_filters
    kernels = first_filters(network)
    results.save_study(output, "filters", filters_figure(kernels), {"filters": kernels.tolist()})
    console.print(f"{len(kernels)} kernels of {kernels.shape[1]}x{kernels.shape[2]} pixels.")
