"""`keras-resnet quickstart`: train, export and verify a small network."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from keras_resnet.cli import options
from keras_resnet.support.files import check_writable
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console


@options.app.command(rich_help_panel=options.START)
def quickstart(
    output: Annotated[
        Path,
        typer.Option(help="Write the model, its artifacts and the report to this directory."),
    ] = Path("quickstart"),
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Train for this number of epochs. By default, the recipe's."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="Seed all random numbers with this integer.")
    ] = 0,
    log_every: options.LogEvery = 60.0,
    overwrite: options.Overwrite = False,
) -> None:
    """Train ResNet-20 on images of handwritten digits, export it and verify every artifact."""
    check_writable(output)
    with quiet():
        from keras_resnet.jobs.quickstart import quickstart as run
    run(output, epochs, seed, overwrite)
    # With its path, if the command was called by that: the environment may not be activated.
    program = sys.argv[0] if Path(sys.argv[0]).name == "keras-resnet" else "keras-resnet"
    artifact = shlex.quote(str(output / "model-int8.tflite"))
    console.print(f"Next, try: {program} evaluate {artifact} --data digits")
