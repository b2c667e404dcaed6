"""`keras-resnet doctor`: check the installation."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from keras_resnet.cli import options
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console


@options.app.command(rich_help_panel=options.START)
def doctor(
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Leave out the devices, so that neither Keras nor TensorFlow is imported.",
        ),
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Print versions, devices, and the features that need a missing package."""
    with quiet():
        from keras_resnet.jobs.doctor import diagnose

        found = diagnose(quick)
    if as_json:
        options.print_json(found)
    else:
        _print(found)
    if found["problem"]:
        raise RuntimeError(f"Keras cannot be imported: {found['problem']}")


def _print(found: dict[str, Any]) -> None:
    for name, installed in found["versions"].items():
        console.print(f"{name:20} {installed or 'not installed'}")
    if found["backend"] is not None:
        console.print(f"{'backend':20} {found['backend']}")
        console.print(f"{'devices':20} {', '.join(found['devices']) or 'none'}")
    console.print("Optional:")
    for module, details in found["optional"].items():
        if details["version"]:
            state = f"{details['version']} for {details['purpose']}"
        else:
            state = f"missing, so not available: {details['purpose']}; {details['install']}"
        console.print(f"  {module:30} {state}")
