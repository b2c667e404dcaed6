"""The application that the commands are added to, and what they share."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any

import typer

# Before TensorFlow is imported: its C++ notes about instruction sets and missing GPUs are not for
# users of a command.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

app = typer.Typer(
    help="ResNets for Keras 3: train, export and verify.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any field of ResNetConfig, e.g. --set output_stride=8."),
]


@app.callback(invoke_without_command=True)
def _without_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def parse_settings(settings: list[str], none: Any = None) -> dict[str, Any]:
    """`field=value` pairs; values are JSON (`8`, `true`, `[2, 2]`, `null`) or plain strings.

    Args:
        settings: the pairs.
        none: what the plain string `none` means.
    """
    parsed: dict[str, Any] = {}
    for setting in settings:
        field, equals, value = setting.partition("=")
        if not equals or not field:
            raise ValueError(f"Expected `--set field=value`. Received: --set {setting}")
        try:
            parsed[field] = json.loads(value)
        except json.JSONDecodeError:
            parsed[field] = none if value == "none" else value
    return parsed


def print_json(data: Any) -> None:
    """Prints data to standard output, for machines."""
    typer.echo(json.dumps(data, indent=2))
