"""`keras-resnet embed`: pictures as vectors in a file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_resnet.cli.export import Model, Weights, keras_model
from keras_resnet.cli.options import AsJson, app, print_json
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console, progress_bar

if TYPE_CHECKING:
    from keras_resnet.jobs.embed import EmbeddingReport


@app.command()
def embed(
    model: Model,
    folders: Annotated[
        list[str], typer.Argument(help="Directories with images, image files or patterns.")
    ],
    output: Annotated[Path, typer.Option(help="New file: .parquet or .npz.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Images in the network at once.")] = 64,
    level: Annotated[
        str, typer.Option(help="Averaged: avg, what the classifier sees, or C2, C3, C4, C5.")
    ] = "avg",
    weights: Weights = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: AsJson = False,
) -> int:
    """Write a vector per image to a file. If interrupted, run again (exit code 1: bad images).

    Files are named relative to the directory if there is one, else as the arguments name them.
    """
    if not model.endswith(".keras") and weights is None:
        raise ValueError(
            "Expected `--weights` with the name of a network: without, its vectors mean nothing. "
            f"Received: {model} alone"
        )
    with quiet():
        from keras_resnet.images.decode import find_images
        from keras_resnet.jobs.embed import embed_to_file
        from keras_resnet.jobs.vector_files import check_output
    # Before images are listed and weights downloaded, which takes minutes.
    check_output(output, overwrite)
    images = find_images(folders)
    network = keras_model(model, weights)
    with _saying_what_is_kept(output), _shown(as_json) as step:
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
    if as_json:
        print_json(report.to_dict())
    else:
        _print(report)
    if report.unreadable:
        typer.echo(
            f"keras-resnet: {len(report.unreadable):,} of {len(images):,} images could not be "
            f"read, see {report.bad_file}",
            err=True,
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


@contextlib.contextmanager
def _saying_what_is_kept(output: Path) -> Iterator[None]:
    try:
        yield
    except SystemExit as interruption:
        interruption.kept = (  # type: ignore[attr-defined]
            f"Finished batches are in {output}.partial; the same command goes on there"
        )
        raise


@contextlib.contextmanager
def _shown(as_json: bool) -> Iterator[Any]:
    """Progress on a terminal; elsewhere a line for every tenth, as one per batch is too many."""
    if as_json:
        yield None
        return
    with progress_bar("embed") as report:
        told = 0

        def tenths(step: str, done: float) -> None:
            nonlocal told
            if int(10 * done) > told:
                told = int(10 * done)
                report(step, done)

        yield report if console.is_terminal else tenths
