"""`keras-resnet launch`: the workers of one training run on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from keras_resnet.cli.options import TRAIN, app
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import complain


@app.command(
    rich_help_panel=TRAIN,
    # What follows belongs to the other command, options included.
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
    },
)
def launch(
    context: typer.Context,
    local_workers: Annotated[
        int, typer.Option(min=1, max=64, help="Processes on this machine.")
    ] = 2,
) -> None:
    """Run a command in several processes that train together: `launch -- train …`.

    Lines of output carry the number of their worker. If one fails, the others are stopped; the exit
    code is that of the first that failed.
    """
    with quiet():
        from keras_resnet.training.devices.launch import launch as run

    code = run(context.args, local_workers, complain)
    raise typer.Exit(code)
