"""`keras-resnet analyze gradients`: whether gradients vanish with depth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_resnet.analysis.studies.families import gradient_configs
from keras_resnet.cli import checks, inputs, options
from keras_resnet.cli.analyze import analyze, results
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console, table

if TYPE_CHECKING:
    import keras


@analyze.command()
def gradients(
    output: results.Output,
    data: options.Data = "digits",
    model: Annotated[
        str | None,
        typer.Option(help="Measure this network: a .keras file, or a name with --weights."),
    ] = None,
    weights: options.Weights = None,
    version: options.Version = None,
    shortcut: options.Shortcut = None,
    net: options.Net = None,
    depth: Annotated[
        str | None, typer.Option(help="Depths, 6n+2, separated by commas. [default: 20,56]")
    ] = None,
    width: Annotated[
        float | None,
        typer.Option(min=0.01, help="Multiplies the 16, 32, 64 filters. [default: 0.5]"),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=8, help="Image height and width. [default: 16]")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps of each network. [default: 40]")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Of SGD. [default: 0.1]")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Networks of each kind. [default: 3]")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=2, help="Images per gradient. [default: 64; of --model: 32]")
    ] = None,
    images: results.Images = 1000,
    max_bad_fraction: options.MaxBadFraction = 0.01,
    log_every: options.LogEvery = 60.0,
    overwrite: options.Overwrite = False,
) -> None:
    """Measure how strong the gradient is in every layer, before and after a short training.

    Compares networks with and without shortcuts and batch normalization (BN) with each other
    (--version, --shortcut and --net change them; --shortcut those with shortcuts), and with the
    factor of 0.9 per layer that articles assume. With --model, measures that network as it
    is. Uses the data's training images.
    """
    results.check_output(output, "gradients", overwrite)
    given: dict[str, Any] = {
        "depth": depth,
        "width": width,
        "size": size,
        "steps": steps,
        "learning_rate": learning_rate,
        "seeds": seeds,
    }
    given = {name: value for name, value in given.items() if value is not None}
    common: dict[str, Any] = {"images": images, "max_bad_fraction": max_bad_fraction}
    if batch_size is not None:
        common["batch_size"] = batch_size
    fields = inputs.network_options(version, shortcut, net)
    if model is not None:
        if given:
            name, value = next(iter(given.items()))
            raise ValueError(
                f"Expected no `--{name.replace('_', '-')}` with `--model`, which is measured as it "
                f"is. Received: {value}"
            )
        model = checks.check_model(model, weights, fields=fields, trained=True)
        checks.check_data(data)
        network = inputs.load_network(model, weights, fields=fields)
        _measure(network, model, data, output, **common)
        return
    if weights is not None:
        raise ValueError(f"Expected `--weights` only with `--model`. Received: {weights}")
    checks.check_data(data)
    if "depth" in given:
        given["depths"] = options.parse_integers(given.pop("depth"), 8)
    gradient_configs(given.get("depths", (20,)), given.get("width", 0.5), fields)
    given["network"] = fields
    _compare(data, output, **common, **given)


def _measure(
    network: keras.Model,
    model: str,
    data: str,
    output: Path,
    *,
    images: int,
    max_bad_fraction: float,
    **batches: Any,
) -> None:
    with quiet():
        from keras_resnet.analysis.studies.figures import gradient_norms_figure
        from keras_resnet.analysis.studies.gradients import gradient_norms
        from keras_resnet.analysis.studies.images import labelled_images
    labelled = labelled_images(
        network, data, images, split="train", max_bad_fraction=max_bad_fraction
    )
    with results.watched("gradients", "the gradients") as keywords:
        found = gradient_norms(network, labelled, **batches, **keywords)
    asked = {"model": model, "data": data, "images": len(labelled[1])}
    values = {**asked, **found.to_dict()}
    results.save_study(output, "gradients", gradient_norms_figure(found), values)
    console.print(
        f"{len(found.layers)} convolutions. First gradient norm divided by the last: "
        f"{_number(found.ratio)}; factor per layer towards the input: {_number(found.factor)} "
        "(articles assume 0.9)."
    )


def _compare(data: str, output: Path, **settings: Any) -> None:
    with quiet():
        from keras_resnet.analysis.studies.figures import gradients_figure
        from keras_resnet.analysis.studies.gradient_study import gradient_study
    with results.watched("gradients", "training and measuring") as keywords:
        study = gradient_study(data, **settings, **keywords)
    results.save_study(
        output, "gradients", gradients_figure(study), {"data": data, **study.to_dict()}
    )
    shown = table(("network", "moment", "gradients", "loss", "first/last", "per layer"), left=3)
    for item in study.summaries():
        numbers = [_number(value) for value in (item.loss, item.ratio, item.factor)]
        shown.add_row(item.name, item.moment, item.verdict, *numbers)
    console.print(shown)
    console.print(
        "first/last: gradient norm of the first convolution divided by that of the last. per "
        "layer: factor towards the input; articles assume 0.9, and 0.9^50 = 0.005."
    )
    for sentence in study.findings():
        console.print(sentence)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
