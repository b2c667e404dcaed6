"""`keras-resnet launch`: start the workers of a training run on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from keras_resnet.cli.options import TRAIN, app
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import complain


@app.command(
    rich_help_panel=TRAIN,
    # All further arguments, options included, belong to the other command.
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
    },
)
def launch(
    context: typer.Context,
    local_workers: Annotated[
        int, typer.Option(min=1, max=64, help="Start this number of processes.")
    ] = 2,
) -> None:
    """Run a command in several processes that train together: `launch -- train …`.

    Each line of output starts with the number of its worker. If a worker fails, the others are
    stopped, and the exit code is that of the failed worker.
    """
    with quiet():
        from keras_resnet.training.devices.launch import launch as run

    code = run(context.args, local_workers, complain)
    raise typer.Exit(code)
