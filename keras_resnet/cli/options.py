"""The application that commands are added to, and the options that several commands share."""

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

# Set before TensorFlow is imported: users of a command need no notes about instruction sets and
# missing GPUs.
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
    """Group of commands whose help has sections, with the whole first paragraph of each command."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the sections; commands without one come last."""
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

_FILE_OR_NAME = "A .keras or .h5 file, or the name of a network in `keras-resnet list`."
ModelArgument = Annotated[str, typer.Argument(help=_FILE_OR_NAME)]
Model = Annotated[str, typer.Option(help=_FILE_OR_NAME)]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Give a network by name these weights: a tag in `keras-resnet weights`, or a file."
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Use images of this height and width in pixels. By default, the network's usual size.",
    ),
]
# Options of networks; `inputs.network_options` takes all three.
Version = Annotated[
    str | None,
    typer.Option(help="Build this version of a network by name: v1, v1.5 or v2."),
]
Shortcut = Annotated[
    str | None,
    typer.Option(help="Build a network by name with these shortcuts: A, B, C or none."),
]
Net = Annotated[
    list[str] | None,
    typer.Option(
        "--net",
        metavar="FIELD=VALUE",
        help="Set a field of ResNetConfig for a network by name, such as output_stride=8. May be "
        "repeated.",
    ),
]

Data = Annotated[
    str,
    typer.Option(help="Read the images from this data source: digits, folder:PATH, cifar:PATH, …"),
]
ValidationFraction = Annotated[
    float,
    typer.Option(
        min=0, max=1, help="Hold out this share of data that has no validation split, from 0 to 1."
    ),
]
MaxBadFraction = Annotated[
    float,
    typer.Option(min=0, max=1, help="Stop if more than this share of the images cannot be read."),
]
Seed = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="Seed all random numbers with this integer.")
]

Recipe = Annotated[str, typer.Option(help="Train by this recipe in `keras-resnet recipes`.")]
RecipeSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Set a field of the recipe, such as optimizer.learning_rate=0.2. May be repeated.",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Use this number of images per optimizer step, over all devices. By default, the "
        "recipe's.",
    ),
]
RunFolder = Annotated[
    Path,
    typer.Option(
        "--output",
        help="Write the run to this directory. If it has an unfinished run of the same command, "
        "resume it.",
    ),
]
CheckpointEvery = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Save the state of the run after this number of batches, too. By default, after "
        "each epoch only.",
    ),
]
Keep = Annotated[int, typer.Option(min=1, help="Keep this number of saved states.")]
Strategy = Annotated[
    str,
    typer.Option(
        help="Train with this strategy: auto (all GPUs, else the CPU), cpu, gpu, mirrored, "
        "multi-worker or tpu."
    ),
]
Dtype = Annotated[
    str, typer.Option(help="Compute in float32, or in mixed precision: bfloat16 or float16.")
]
Deterministic = Annotated[
    bool | None,
    typer.Option(
        help="Compute bit-identical results in every run. By default, only if there is no GPU."
    ),
]

TimedBatches = Annotated[
    str, typer.Option("--batch", help="Time these batch sizes, separated by commas.")
]
TimingSeconds = Annotated[
    float,
    typer.Option(
        "--seconds", min=0, help="Time each artifact for this number of seconds; 0: do not time."
    ),
]
Threads = Annotated[
    str,
    typer.Option(help="Time these numbers of threads, separated by commas; 0: one for each core."),
]

Trust = Annotated[
    bool, typer.Option("--trust", help="Load a SavedModel that may read and write files.")
]
Pixels = Annotated[
    str | None,
    typer.Option(
        help="Normalize pixels for a model of another package: raw, unit, tf, imagenet or caffe. "
        "By default, as its metadata says."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")]


def _set_log_every(seconds: float) -> float:
    console.log_every = seconds
    return seconds


LogEvery = Annotated[
    float,
    typer.Option(
        min=0.1,
        callback=_set_log_every,
        help="Print progress after this number of seconds, if the output is not a terminal.",
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
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def parse_settings(settings: list[str] | None, option: str) -> dict[str, Any]:
    """Parse `field=value` pairs; values are JSON (`8`, `true`, `[2, 2]`, `null`) or strings.

    The string `none` means None for fields of networks. For other fields it may be a name, such as
    that of an augmentation.

    Args:
        settings: the pairs.
        option: option of the pairs: `--set` or `--net`.

    Raises:
        ValueError: a setting is not a pair.
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
    """Parse integers of at least `least`, separated by commas."""
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
    """Print a report, which has the methods `to_dict` and `to_table`."""
    if as_json:
        print_json(report.to_dict())
    else:
        console.print(report.to_table())


def print_json(data: Any) -> None:
    """Print data to standard output as JSON."""
    typer.echo(json.dumps(data, indent=2))
