"""`keras-resnet analyze project`: vectors of images as a map."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_resnet.cli import options
from keras_resnet.cli.analyze import analyze
from keras_resnet.support.progress import Say, unsaid
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console


@analyze.command()
def project(
    vectors: Annotated[Path, typer.Argument(help="A file of `keras-resnet embed`.")],
    method: Annotated[str, typer.Option(help="pca, tsne or umap.")] = "pca",
    images: Annotated[
        Path | None, typer.Option(help="Where the images are that the file names, for thumbnails.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of t-SNE and UMAP.")] = 0,
    overwrite: options.Overwrite = False,
) -> None:
    """Draw vectors of images as a map, beside their file: PNG, SVG and HTML with thumbnails.

    Images in folders are colored by folder.
    """
    check_map(vectors, method, overwrite)
    from keras_resnet.jobs.vector_files import load_vectors

    if images is not None and not images.is_dir():
        raise ValueError(f"Expected a directory as --images. Received: {images}")
    names, found = load_vectors(vectors)
    paths = [Path(images or ".", name) for name in names]
    if images is None and not any(map(os.path.isfile, paths)):
        console.print(
            "None of the images is found from here: for thumbnails, pass --images FOLDER."
        )
    save_map(vectors, method, names, found, paths, seed, overwrite)


def check_map(vectors: Path, method: str, overwrite: bool) -> None:
    """Refuse a map that cannot be made, before the work that comes first.

    Raises:
        ValueError, ImportError: as of `check_method`.
        FileExistsError: one of its files is there.
    """
    with quiet():
        from keras_resnet.jobs.projection import check_method, map_files
        from keras_resnet.support.files import check_new
    for file in map_files(vectors, check_method(method)).values():
        check_new(file, overwrite)


def save_map(
    vectors_file: Path,
    method: Any,
    names: Sequence[str],
    vectors: Any,
    images: Sequence[str | os.PathLike[str]],
    seed: int = 0,
    overwrite: bool = False,
    hidden: bool = False,
) -> dict[str, str]:
    """Make the map of vectors, write its files, and say how long it takes and what they are.

    Args:
        vectors_file: the file that the vectors are in; those of the map stand beside it.
        method, seed: as for `project_vectors`.
        names: of the images, one per vector.
        vectors: `(n, channels)`.
        images: paths of the images.
        overwrite: whether files that are there are replaced.
        hidden: whether nothing is printed.

    Returns:
        The files by suffix.
    """
    with quiet():
        from keras_resnet.jobs.projection import (
            NAMES,
            estimated_seconds,
            folder_labels,
            map_files,
            project_vectors,
        )
        from keras_resnet.jobs.projection_page import save_projection
    files = map_files(vectors_file, method)
    say: Say = unsaid if hidden else console.print
    about = estimated_seconds(len(names), method)
    say(f"{NAMES[method]} of {len(names):,} vectors: about {about:,.0f} s on an idle core.")
    found = project_vectors(vectors, method, seed)
    labels = folder_labels(names)
    said = save_projection(
        found, names, vectors_file, labels=labels, images=images, overwrite=overwrite
    )
    say(f"Map: {', '.join(map(str, files.values()))} ({found.seconds:.1f} s). {said}")
    return {kind: str(file) for kind, file in files.items()}
