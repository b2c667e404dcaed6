"""`keras-resnet embed`: images as vectors in a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keras_resnet.cli import checks, inputs, options
from keras_resnet.cli.options import print_json
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import complain, console, progress_bar

if TYPE_CHECKING:
    from keras_resnet.jobs.embed import EmbeddingReport


@options.app.command(rich_help_panel=options.USE)
def embed(
    model: options.ModelArgument,
    folders: Annotated[
        list[str], typer.Argument(help="Directories with images, image files or patterns.")
    ],
    output: Annotated[Path, typer.Option(help="New file: .parquet or .npz.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Images in the network at once.")] = 64,
    level: Annotated[
        str, typer.Option(help="Averaged: avg, what the classifier sees, or C2, C3, C4, C5.")
    ] = "avg",
    weights: options.Weights = None,
    version: options.Version = None,
    shortcut: options.Shortcut = None,
    net: options.Net = None,
    log_every: options.LogEvery = 60.0,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> int:
    """Write a vector per image to a file. If interrupted, run again (exit code 1: bad images).

    Files are named relative to the directory if there is one, else as the arguments name them.
    """
    fields = inputs.network_options(version, shortcut, net)
    model = checks.check_model(model, weights, fields=fields, trained=True)
    from keras_resnet.images.decode import find_images
    from keras_resnet.jobs.vector_files import check_output

    # Before images are listed and weights downloaded, which takes minutes.
    check_output(output, overwrite)
    images = find_images(folders)
    network = inputs.load_network(model, weights, fields=fields)
    with quiet():
        from keras_resnet.jobs.embed import embed_to_file
    with progress_bar("embed", hidden=as_json, lines=10) as step:
        try:
            report = embed_to_file(
                network,
                images,
                output,
                names=_names(images, folders),
                batch_size=batch_size,
                level=level,
                overwrite=overwrite,
                progress=step,
            )
        except SystemExit as interruption:
            interruption.kept = (  # type: ignore[attr-defined]
                f"Finished batches are in {output}.partial; the same command goes on there"
            )
            raise
    if as_json:
        print_json(report.to_dict())
    else:
        _print(report)
    if report.unreadable:
        complain(
            f"{len(report.unreadable):,} of {len(images):,} images could not be read, see "
            f"{report.bad_file}"
        )
    return 1 if report.unreadable else 0


def _print(report: EmbeddingReport) -> None:
    if report.resumed:
        console.print(f"{report.resumed:,} images had been finished before.")
    console.print(
        f"Written: {report.output}, {report.vectors:,} vectors of {report.channels:,} numbers "
        f"({report.images_per_second:,.0f} images/s)."
    )


def _names(images: Sequence[Path], folders: Sequence[str]) -> list[str]:
    """What the file calls the images: two directories may have images of the same name."""
    if len(folders) == 1 and Path(folders[0]).is_dir():
        return [os.fspath(path.relative_to(folders[0])) for path in images]
    return [os.fspath(path) for path in images]
