"""`keras-resnet quickstart`: the whole way, from images to verified artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keras_resnet.cli import options
from keras_resnet.support.quiet import quiet


@options.app.command()
def quickstart(
    output: Annotated[
        Path, typer.Option(help="Directory for the model, its artifacts and the report.")
    ] = Path("quickstart"),
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training digits.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Same seed, same weights.")] = 0,
    overwrite: options.Overwrite = False,
) -> None:
    """Train ResNet-20 on real handwritten digits, export it and verify every artifact."""
    with quiet():
        from keras_resnet.jobs.quickstart import quickstart as run
    run(output, epochs, seed, overwrite)
