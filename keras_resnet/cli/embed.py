"""`keras-resnet embed`: write the vectors of images to a file."""

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
        help="A .keras, .h5, .onnx or .tflite file, the directory of a SavedModel, or the name of "
        "a network in `keras-resnet list`."
    ),
]


@options.app.command(rich_help_panel=options.USE)
def embed(
    model: Model,
    folders: Annotated[
        list[str], typer.Argument(help="Directories with images, image files, or patterns.")
    ],
    output: Annotated[
        Path, typer.Option(help="Write the vectors to this new .parquet or .npz file.")
    ],
    batch_size: Annotated[int, typer.Option(min=1, help="Run this number of images at once.")] = 64,
    level: Annotated[
        str,
        typer.Option(
            help="Take the vectors from this level: avg, the input of the classifier, or C2, C3, "
            "C4 or C5, averaged over the positions."
        ),
    ] = "avg",
    weights: options.Weights = None,
    project: Annotated[
        str | None,
        typer.Option(
            help="Also draw a map (.png, .svg and .html) by pca, tsne or umap. By default, no map."
        ),
    ] = None,
    pixels: options.Pixels = None,
    version: options.Version = None,
    shortcut: options.Shortcut = None,
    net: options.Net = None,
    log_every: options.LogEvery = 60.0,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> int:
    """Write a vector for each image to a file. Run the same command again to resume.

    The file names images relative to the directory if there is one argument, a directory, and else
    as in the arguments. The exit code is 1 if images could not be read.
    """
    fields = inputs.network_options(version, shortcut, net)
    model = _checked(model, weights, fields)
    checks.check_pixels(pixels)
    checks.check_level("level", level, "avg")
    from keras_resnet.images.decode import find_images
    from keras_resnet.jobs.vector_files import check_output

    # Listing the images and downloading weights may take minutes: check the output first.
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
                f"Finished batches are in {output}.partial; run the same command again to resume"
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
            f"{len(report.unreadable):,} of {len(images):,} images could not be read; "
            f"{report.bad_file} lists them"
        )
    return 1 if report.unreadable else 0


def _is_file(model: str) -> bool:
    return model.endswith((".onnx", ".tflite", *MODEL_SUFFIXES)) or Path(model).is_dir()


def _checked(model: str, weights: str | None, fields: dict[str, Any]) -> str:
    """Return the path of a model or the name of a network, after all checks."""
    if not _is_file(model) or model.endswith(MODEL_SUFFIXES):
        return checks.check_model(model, weights, fields=fields, trained=True)
    if weights is not None or fields:
        raise ValueError(
            "Expected an artifact without `--weights` and options of the network, which are for "
            f"networks by name. Received: {weights or fields}"
        )
    checks.check_readable(model)
    return model


def _print(report: EmbeddingReport) -> None:
    for note in report.notes:
        console.print(note)
    if report.resumed:
        console.print(f"{report.resumed:,} images were finished by an earlier run.")
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
    """Draw the map and return its files; images that could not be read are not in the file."""
    from keras_resnet.jobs.vector_files import load_vectors

    names, vectors = load_vectors(output)
    path_of = dict(zip(_names(images, folders), images, strict=True))
    paths = [path_of.get(name, Path(name)) for name in names]
    try:
        return save_map(output, method, names, vectors, paths, 0, overwrite, hidden)
    except ValueError as error:
        raise ValueError(f"{error}. {output} is complete") from error


def _names(images: Sequence[Path], folders: Sequence[str]) -> list[str]:
    """Return the names of the images in the file, which are unique over all directories."""
    if len(folders) == 1 and Path(folders[0]).is_dir():
        return [os.fspath(path.relative_to(folders[0])) for path in images]
    return [os.fspath(path) for path in images]
