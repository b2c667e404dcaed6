"""`keras-resnet analyze`: the papers' claims on a network of one's own."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from keras_resnet.cli import inputs, options
from keras_resnet.support.checks import check_choice
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import complain, console, progress_bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

analyze = typer.Typer(
    help="Show the papers' claims: lesions, responses, explanations, filters.",
    rich_markup_mode=None,
)
options.app.add_typer(analyze, name="analyze")

Output = Annotated[Path, typer.Option(help="Folder for the picture (.png, .svg) and its .json.")]
Images = Annotated[int, typer.Option(min=1, help="How many images at most.")]
Split = Annotated[str, typer.Option(help="validation, test, train or all.")]
Seed = Annotated[int, typer.Option(min=0, help="Of random choices.")]
Numbers = Annotated[str | None, typer.Option(help="Numbers, separated by commas, such as 1,2,5.")]


@analyze.command()
def lesion(
    model: options.ModelArgument,
    data: options.Data,
    output: Output,
    weights: options.Weights = None,
    images: Images = 1000,
    split: Split = "validation",
    several: Numbers = None,
    swaps: Numbers = None,
    draws: Annotated[int, typer.Option(min=1, help="Random choices per number.")] = 5,
    seed: Seed = 0,
) -> None:
    """Delete every block of a trained network in turn, and measure its error without it."""
    inputs.check_weights(model, weights)
    numbers = [options.parse_integers(text, 1) if text else () for text in (several, swaps)]
    network = inputs.load_network(model, weights)
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
            progress=_with_time_left(step),
        )
    asked = {"model": model, "data": data, "split": split, "draws": draws, "seed": seed}
    _save(output, "lesion", lesion_figure(study), {**asked, **study.to_dict()})
    worst = max(range(len(study.names)), key=study.errors.__getitem__)
    console.print(
        f"Top-1 error of the whole network: {study.error:.2%}. Without one block: "
        f"{min(study.errors):.2%} to {study.errors[worst]:.2%} (without {study.names[worst]})."
    )


@analyze.command()
def responses(
    model: options.ModelArgument,
    data: options.Data,
    output: Output,
    weights: options.Weights = None,
    images: Images = 1000,
    split: Split = "validation",
    seed: Seed = 0,
) -> None:
    """Measure the standard deviations of the 3x3 layers' responses (He et al. 2015, Figure 7)."""
    network = inputs.load_network(model, weights)
    with quiet():
        from keras_resnet.analysis.studies.figures import responses_figure
        from keras_resnet.analysis.studies.images import labelled_images
        from keras_resnet.analysis.studies.responses import layer_responses
    found = layer_responses(
        network, labelled_images(network, data, images, split=split, seed=seed)[0]
    )
    asked = {"model": model, "data": data, "split": split, "seed": seed}
    _save(output, "responses", responses_figure(found), {**asked, **found.to_dict()})
    console.print(
        f"{len(found.names)} layers, standard deviations of {min(found.deviations):.3f} to "
        f"{max(found.deviations):.3f}."
    )


@analyze.command()
def filters(model: options.ModelArgument, output: Output, weights: options.Weights = None) -> None:
    """Show the first layer's kernels as a picture."""
    network = inputs.load_network(model, weights)
    with quiet():
        from keras_resnet.analysis.studies.figures import filters_figure
        from keras_resnet.analysis.studies.responses import first_filters
    kernels = first_filters(network)
    _save(output, "filters", filters_figure(kernels), {"filters": kernels.tolist()})
    console.print(f"{len(kernels)} kernels of {kernels.shape[1]}x{kernels.shape[2]} pixels.")


@analyze.command()
def explain(
    model: options.ModelArgument,
    images: Annotated[list[str], typer.Argument(help="Image files, directories or patterns.")],
    output: Annotated[Path, typer.Option(help="Folder for a picture of every image.")],
    weights: options.Weights = None,
    method: Annotated[
        str, typer.Option(help="grad-cam, grad-cam-pp, integrated-gradients or occlusion.")
    ] = "grad-cam",
    named: Annotated[
        str | None, typer.Option("--class", help="Index or name; by default the top-1 class.")
    ] = None,
    level: Annotated[str | None, typer.Option(help="C2, C3, ... for grad-cam.")] = None,
) -> int:
    """Lay over images what speaks for a class (exit code 1: images could not be read)."""
    inputs.check_weights(model, weights)
    with quiet():
        from keras_resnet.analysis.studies.explain import Method
        from keras_resnet.analysis.studies.overlays import explain_files
        from keras_resnet.images.decode import find_images
        from keras_resnet.models.info import get_info
    chosen: Any = method.replace("-", "_")
    check_choice("method", chosen, get_args(Method))
    paths = find_images(images)
    network = inputs.load_network(model, weights)
    # A class may be called by a number.
    names = get_info(network).class_names or ()
    is_index = named is not None and named.isdecimal() and named not in names
    with progress_bar("explain", lines=10) as step:
        bad = explain_files(
            network,
            paths,
            output,
            method=chosen,
            class_index=int(str(named)) if is_index else named,
            level=level,
            progress=_with_time_left(step),
        )
    console.print(f"{len(paths) - len(bad)} pictures in {output}.")
    for reason in bad.values():
        complain(reason)
    return 1 if bad else 0


def _with_time_left(step: Any) -> Any:
    """Adds to every step how long the rest will take, at the speed so far."""
    begin = time.monotonic()

    def say(words: str, done: float) -> None:
        left = (time.monotonic() - begin) * (1 / max(done, 1e-9) - 1)
        step(f"{words}, about {left:,.0f} s left", done)

    return say


def _save(output: Path, name: str, figure: Figure, values: dict[str, Any]) -> None:
    """Writes a study as a picture in two formats and as JSON, or nothing of it."""
    from keras_resnet.support.files import partial_directory, publish

    names = [f"{name}.{suffix}" for suffix in ("png", "svg", "json")]
    with partial_directory(output) as staging:
        for picture in names[:2]:
            figure.savefig(staging / picture, dpi=150)
        (staging / names[2]).write_text(json.dumps(values, indent=2) + "\n", "utf-8")
        publish(staging, names)
    console.print(f"Written: {', '.join(str(output / name) for name in names)}")
