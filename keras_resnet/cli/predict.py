"""`keras-resnet predict`: what is on pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_resnet.cli.options import AsJson, app, print_json
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console, progress_bar

#: Images that are decoded, and then run, at once.
_BATCH = 32


@app.command()
def predict(
    model: Annotated[
        str, typer.Argument(help="A .keras, .tflite or .onnx file, or a SavedModel directory.")
    ],
    images: Annotated[list[str], typer.Argument(help="Image files, directories or patterns.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes per image.")] = 5,
    as_json: AsJson = False,
) -> int:
    """Classify image files; those that cannot be read are named and skipped (exit code 1)."""
    with quiet():
        from keras_resnet.images.decode import UnreadableImageError, find_images, read_image
        from keras_resnet.jobs.predictor import Predictor
    results: list[dict[str, Any]] = []
    bad: dict[str, str] = {}
    paths: list[Path] = []
    for argument in images:
        try:
            paths += find_images([argument])
        except ValueError as error:
            bad[argument] = str(error)
    if not paths:
        raise ValueError(next(iter(bad.values())))
    with quiet():
        predictor = Predictor(model)

    def run(batch: list[Path]) -> None:
        readable = []
        for path in batch:
            try:
                readable.append((path, read_image(path)))
            except UnreadableImageError as error:
                bad[str(path)] = str(error)
        if not readable:
            return
        found = predictor.classify([image for _, image in readable], top)
        for (path, _), classes in zip(readable, found, strict=True):
            if not as_json:
                _print(path, classes)
            results.append(
                {
                    "file": str(path),
                    "classes": [
                        {"id": own, "name": name, "probability": probability}
                        for own, name, probability in classes
                    ],
                }
            )

    with _shown(len(paths), as_json) as step:
        for start in range(0, len(paths), _BATCH):
            step(start)
            run(paths[start : start + _BATCH])
    if as_json:
        print_json({"predictions": results, "unreadable": bad})
    for message in bad.values():
        typer.echo(f"keras-resnet: {message}", err=True)
    if bad:
        count = len(results) + len(bad)
        typer.echo(f"keras-resnet: {len(bad)} of {count} images skipped.", err=True)
    return 1 if bad else 0


@contextlib.contextmanager
def _shown(count: int, as_json: bool) -> Iterator[Any]:
    """Progress on a terminal, where one batch is not all there is."""
    if as_json or count <= _BATCH or not console.is_terminal:
        yield lambda done: None
        return
    with progress_bar("predict") as report:
        yield lambda done: report(f"{done} of {count} images", done / count)


def _print(path: Path, classes: list[tuple[str, str, float]]) -> None:
    console.print(f"{path}")
    for _, name, probability in classes:
        console.print(f"  {probability:7.2%}  {name}")
