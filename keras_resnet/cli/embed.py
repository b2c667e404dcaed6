"""`keras-resnet embed`: images as vectors in a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_resnet.cli import checks, inputs, options
from keras_resnet.cli.analyze.project import check_map, save_map
from keras_resnet.cli.options import print_json
from keras_resnet.support.checks import MODEL_SUFFIXES
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import complain, console, progress_bar

if TYPE_CHECKING:
    from keras_resnet.jobs.embed import EmbeddingReport

Model = Annotated[
    str,
    typer.Argument(
        help="A .keras, .h5, .onnx or .tflite file, a SavedModel, or a network of "
        "`keras-resnet list`."
    ),
]


@options.app.command(rich_help_panel=options.USE)
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
    weights: options.Weights = None,
    project: Annotated[
        str | None, typer.Option(help="Draw a map (.png, .svg, .html), too: pca, tsne or umap.")
    ] = None,
    pixels: options.Pixels = None,
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
    model = _checked(model, weights, fields)
    checks.check_pixels(pixels)
    checks.check_level("level", level, "avg")
    from keras_resnet.images.decode import find_images
    from keras_resnet.jobs.vector_files import check_output

    # Before images are listed and weights downloaded, which takes minutes.
    check_output(output, overwrite)
    if project is not None:
        check_map(output, project, overwrite)
    images = find_images(folders)
    network = model if _is_file(model) else inputs.load_network(model, weights, fields=fields)
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
                pixels=pixels,
                overwrite=overwrite,
                progress=step,
            )
        except SystemExit as interruption:
            interruption.kept = (  # type: ignore[attr-defined]
                f"Finished batches are in {output}.partial; the same command goes on there"
            )
            raise
    values = report.to_dict()
    if project is not None:
        values["map"] = _map_of(output, project, images, folders, overwrite, hidden=as_json)
    if as_json:
        print_json(values)
    else:
        _print(report)
    if report.unreadable:
        complain(
            f"{len(report.unreadable):,} of {len(images):,} images could not be read, see "
            f"{report.bad_file}"
        )
    return 1 if report.unreadable else 0


def _is_file(model: str) -> bool:
    return model.endswith((".onnx", ".tflite", *MODEL_SUFFIXES)) or Path(model).is_dir()


def _checked(model: str, weights: str | None, fields: dict[str, Any]) -> str:
    """The path of a model, or the name of a network, once nothing about it can be refused."""
    if not _is_file(model) or model.endswith(MODEL_SUFFIXES):
        return checks.check_model(model, weights, fields=fields, trained=True)
    if weights is not None or fields:
        raise ValueError(
            "Expected neither `--weights` nor options of the network with an artifact, which has "
            f"its own. Received: {weights or fields}"
        )
    checks.check_readable(model)
    return model


def _print(report: EmbeddingReport) -> None:
    for note in report.notes:
        console.print(note)
    if report.resumed:
        console.print(f"{report.resumed:,} images had been finished before.")
    console.print(
        f"Written: {report.output}, {report.vectors:,} vectors of {report.channels:,} numbers "
        f"({report.images_per_second:,.0f} images/s)."
    )


def _map_of(
    output: Path,
    method: str,
    images: Sequence[Path],
    folders: Sequence[str],
    overwrite: bool,
    hidden: bool,
) -> dict[str, str]:
    """The files of the map; of images that could not be read, there are no vectors."""
    from keras_resnet.jobs.vector_files import load_vectors

    names, vectors = load_vectors(output)
    path_of = dict(zip(_names(images, folders), images, strict=True))
    paths = [path_of.get(name, Path(name)) for name in names]
    try:
        return save_map(output, method, names, vectors, paths, 0, overwrite, hidden)
    except ValueError as error:
        raise ValueError(f"{error}. {output} is complete") from error


def _names(images: Sequence[Path], folders: Sequence[str]) -> list[str]:
    """Return the images' names in the file: two directories may have images of one name."""
    if len(folders) == 1 and Path(folders[0]).is_dir():
        return [os.fspath(path.relative_to(folders[0])) for path in images]
    return [os.fspath(path) for path in images]
