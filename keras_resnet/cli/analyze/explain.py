"""`keras-resnet analyze explain`: maps of the pixels of an image that support a class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from keras_resnet.analysis.studies.choices import Method
from keras_resnet.cli import checks, inputs, options
from keras_resnet.cli.analyze import analyze, results
from keras_resnet.support.checks import check_choice
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import complain, console


@analyze.command()
def explain(
    model: options.ModelArgument,
    images: Annotated[list[str], typer.Argument(help="Image files, directories or patterns.")],
    output: Annotated[Path, typer.Option(help="Folder for a PNG of every image.")],
    weights: options.Weights = None,
    version: options.Version = None,
    shortcut: options.Shortcut = None,
    net: options.Net = None,
    method: Annotated[
        str, typer.Option(help="grad-cam, grad-cam-pp, integrated-gradients or occlusion.")
    ] = "grad-cam",
    named: Annotated[
        str | None,
        typer.Option("--class", help="Index or name. [default: the top-1 class of every image]"),
    ] = None,
    level: Annotated[
        str | None, typer.Option(help="C2, C3, … for grad-cam and grad-cam-pp.")
    ] = None,
    log_every: options.LogEvery = 60.0,
    overwrite: options.Overwrite = False,
) -> int:
    """Lay maps of the pixels that support a class over images (exit code 1: unreadable images)."""
    check_choice("method", method, [name.replace("_", "-") for name in get_args(Method)])
    chosen: Any = method.replace("-", "_")
    checks.check_level("level", level)
    fields = inputs.network_options(version, shortcut, net)
    model = checks.check_model(model, weights, fields=fields, trained=True)
    from keras_resnet.images.decode import find_images
    from keras_resnet.support.files import check_new, check_writable

    paths = find_images(images)
    for name in ("explain.json", *(f"{Path(path).stem}.png" for path in paths)):
        check_new(output / name, overwrite)
    check_writable(output)
    with quiet():
        from keras_resnet.analysis.studies.overlays import explain_files
        from keras_resnet.models.info import get_info
    network = inputs.load_network(model, weights, fields=fields)
    # A number may be the name of a class.
    names = get_info(network).class_names or ()
    is_index = named is not None and named.isdecimal() and named not in names
    with results.watched("explain", "the explanations") as keywords:
        bad = explain_files(
            network,
            paths,
            output,
            method=chosen,
            class_index=int(str(named)) if is_index else named,
            level=level,
            **keywords,
        )
    console.print(f"Written: {len(paths) - len(bad)} PNGs in {output}.")
    for reason in bad.values():
        complain(reason)
    return 1 if bad else 0
