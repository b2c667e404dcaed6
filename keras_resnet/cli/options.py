"""The application that the commands are added to, and the options that several of them have."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from keras_resnet import __version__
from keras_resnet.support.json_text import parse_json
from keras_resnet.support.terminal import console

# Before TensorFlow is imported: its C++ notes about instruction sets and missing GPUs are not for
# users of a command.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

#: Sections of the help, in their order.
START, TRAIN, USE, EXPORT, DATA = (
    "First steps",
    "Training",
    "Using trained networks",
    "Export",
    "Networks, recipes, weights and data",
)


class Group(TyperGroup):
    """Commands in sections, each with the whole first sentence of its help."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes the sections; commands without one come last."""
        sections: dict[str, list[tuple[str, str]]] = {
            title: [] for title in (START, TRAIN, USE, EXPORT, DATA, "Commands")
        }
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            title = command.rich_help_panel
            paragraph = (command.help or "").partition("\n\n")[0]
            entry = (name, " ".join(paragraph.split()))
            sections[title if title in sections else "Commands"].append(entry)
        for title, entries in sections.items():
            if entries:
                with formatter.section(title):
                    formatter.write_dl(entries)


app = typer.Typer(
    cls=Group,
    help="ResNets for Keras 3: train, export and verify.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_FILE_OR_NAME = "A .keras or .h5 file, or a network of `keras-resnet list`."
ModelArgument = Annotated[str, typer.Argument(help=_FILE_OR_NAME)]
Model = Annotated[str, typer.Option(help=_FILE_OR_NAME)]
Weights = Annotated[
    str | None,
    typer.Option(help="A tag of `keras-resnet weights` or a file, for a network by name."),
]
Size = Annotated[int | None, typer.Option(min=1, help="Image height and width.")]
# The network's own options; `inputs.network_options` takes all three.
Version = Annotated[str | None, typer.Option(help="Version of a network by name: v1, v1.5 or v2.")]
Shortcut = Annotated[
    str | None, typer.Option(help="Shortcuts of a network by name: A, B, C or none.")
]
Net = Annotated[
    list[str] | None,
    typer.Option(
        "--net",
        metavar="FIELD=VALUE",
        help="Any field of ResNetConfig, for a network by name, e.g. --net output_stride=8.",
    ),
]

Data = Annotated[str, typer.Option(help="Images, e.g. digits, folder:PATH, cifar:PATH.")]
ValidationFraction = Annotated[float, typer.Option(help="Of data without a validation part.")]
MaxBadFraction = Annotated[
    float, typer.Option(min=0, max=1, help="Share of images that may be unreadable.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of everything random.")]

Recipe = Annotated[str, typer.Option(help="A recipe of `keras-resnet recipes`.")]
RecipeSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="A field of the recipe, e.g. --set optimizer.learning_rate=0.2.",
    ),
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Images per optimizer step, over all devices.")
]
RunFolder = Annotated[
    Path, typer.Option("--output", help="Folder of the run; the same again: go on.")
]
CheckpointEvery = Annotated[int | None, typer.Option(min=1, help="Batches between saved states.")]
Keep = Annotated[int, typer.Option(min=1, help="Saved states to keep.")]
Strategy = Annotated[str, typer.Option(help="auto, cpu, gpu, mirrored, multi-worker or tpu.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Deterministic = Annotated[
    bool | None, typer.Option(help="The same bits every time; the default without GPUs.")
]

TimedBatches = Annotated[
    str, typer.Option("--batch", help="Batch sizes to time, separated by commas.")
]
TimingSeconds = Annotated[
    float, typer.Option("--seconds", min=0, help="Of each timing; 0: no timing.")
]
Threads = Annotated[str, typer.Option(help="Numbers of threads to time; 0: all cores.")]

Trust = Annotated[
    bool, typer.Option("--trust", help="Run a SavedModel that may read and write files.")
]
Pixels = Annotated[
    str | None,
    typer.Option(help="What a model of others takes: raw, unit, tf, imagenet or caffe."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


def _set_log_every(seconds: float) -> float:
    console.log_every = seconds
    return seconds


LogEvery = Annotated[
    float,
    typer.Option(
        min=0.1,
        callback=_set_log_every,
        help="Without a terminal: print a line after so many seconds of silence.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"keras-resnet {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _without_command(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def parse_settings(settings: list[str] | None, option: str) -> dict[str, Any]:
    """Parses `field=value` pairs; values are JSON (`8`, `true`, `[2, 2]`, `null`) or strings.

    The string `none` is None for fields of networks, and a name for others, as of augmentations.

    Args:
        settings: the pairs.
        option: before which they stand: `--set` or `--net`.
    """
    parsed: dict[str, Any] = {}
    for setting in settings or []:
        field, equals, value = setting.partition("=")
        if not equals or not field:
            raise ValueError(f"Expected `{option} FIELD=VALUE`. Received: {option} {setting}")
        try:
            parsed[field] = parse_json(value)
        except ValueError:
            of_network = option == "--net" or field.startswith("network.")
            parsed[field] = None if value == "none" and of_network else value
    return parsed


def parse_integers(text: str, least: int) -> tuple[int, ...]:
    """Integers of at least `least`, separated by commas."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < least:
        raise ValueError(
            f"Expected integers of at least {least}, separated by commas. Received: {text!r}"
        )
    return numbers


def print_report(report: Any, as_json: bool) -> None:
    """Prints a report that has `to_dict` and `to_table`."""
    if as_json:
        print_json(report.to_dict())
    else:
        console.print(report.to_table())


def print_json(data: Any) -> None:
    """Prints data to standard output, for machines."""
    typer.echo(json.dumps(data, indent=2))
