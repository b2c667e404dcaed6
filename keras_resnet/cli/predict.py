"""`keras-resnet predict`: classify images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from keras_resnet.cli import checks, options
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import complain, console, progress_bar

#: Number of images that are run at once.
_BATCH = 32


@options.app.command(rich_help_panel=options.USE)
def predict(
    model: Annotated[
        str,
        typer.Argument(
            help="A .keras, .h5, .tflite or .onnx file, or the directory of a SavedModel."
        ),
    ],
    images: Annotated[
        list[str], typer.Argument(help="Image files, directories with images, or patterns.")
    ],
    top: Annotated[
        int, typer.Option(min=1, help="Print this number of classes for each image.")
    ] = 5,
    pixels: options.Pixels = None,
    trust: options.Trust = False,
    log_every: options.LogEvery = 60.0,
    as_json: options.AsJson = False,
) -> int:
    """Classify image files.

    Files that cannot be read are reported and skipped; the exit code is 1 then.
    """
    import numpy as np

    from keras_resnet.images.decode import UnreadableImageError, find_images

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
    checks.check_readable(model)
    checks.check_pixels(pixels)
    with quiet():
        from keras_resnet.jobs.predictor import Predictor

        predictor = Predictor(model, trust=trust, pixels=pixels)
    if not as_json:
        for note in predictor.notes:
            console.print(note)
    with progress_bar("predict", hidden=as_json or len(paths) <= _BATCH, lines=0) as step:
        for start in range(0, len(paths), _BATCH):
            step(f"{start} of {len(paths)} images", start / len(paths))
            readable = []
            for path in paths[start : start + _BATCH]:
                try:
                    readable.append((path, predictor.prepared(path)))
                except UnreadableImageError as error:
                    bad[str(path)] = str(error)
            stack = [image for _, image in readable]
            found = predictor.classify(np.stack(stack), top) if stack else []
            for (path, _), classes in zip(readable, found, strict=True):
                if not as_json:
                    console.print(f"{path}")
                    for _, name, probability in classes:
                        console.print(f"  {probability:7.2%}  {name}")
                keys = ("id", "name", "probability")
                described = [dict(zip(keys, values, strict=True)) for values in classes]
                results.append({"file": str(path), "classes": described})
    if as_json:
        model_facts = {"pixels": predictor.pixels, "notes": predictor.notes}
        options.print_json({"predictions": results, "unreadable": bad, "model": model_facts})
    for message in bad.values():
        complain(message)
    if bad:
        complain(f"{len(bad)} of {len(results) + len(bad)} images were skipped.")
    return 1 if bad else 0
