"""The `keras-resnet` command.

Exit codes: 0 done, 1 the work failed, 2 bad arguments or input, 130 or 143 interrupted.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import sys
import warnings
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from keras_resnet.quiet import quiet
from keras_resnet.terminal import console, table

if TYPE_CHECKING:
    from keras_resnet.analysis.complexity import PartSummary

# Before TensorFlow is imported: its C++ notes about instruction sets and missing GPUs are not for
# users of a command.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

app = typer.Typer(
    help="ResNets for Keras 3: train, export and verify.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _without_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def quickstart(
    output: Annotated[
        Path, typer.Option(help="Directory for the model, its artifacts and the report.")
    ] = Path("quickstart"),
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training digits.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Same seed, same weights.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results that are there.")
    ] = False,
) -> None:
    """Train ResNet-20 on real handwritten digits, export it and verify every artifact."""
    with quiet():
        from keras_resnet.quickstart import quickstart as run
    run(output, epochs, seed, overwrite)


@app.command("list")
def list_command(
    pattern: Annotated[str, typer.Argument(help="Shell-style pattern, e.g. 'resnet*'.")] = "*",
    as_json: AsJson = False,
) -> None:
    """List the networks with their depth, parameters and multiply-accumulates."""
    with quiet():
        from keras_resnet import complexity, list_models
        from keras_resnet.variants import VARIANTS, versions
    names = list_models(pattern)
    if not names:
        raise ValueError(
            f"Expected a pattern that matches a network, e.g. 'resnet*'. Received: {pattern!r}"
        )
    costs = {name: complexity(VARIANTS[name]) for name in names}
    if as_json:
        _print_json(
            {
                name: {
                    **dataclasses.asdict(cost),
                    "versions": versions(name),
                    "config": dataclasses.asdict(VARIANTS[name]),
                }
                for name, cost in costs.items()
            }
        )
        return
    columns = ("network", "versions", "block", "shortcut", "input", "depth", "parameters", "MACs")
    rows = table(columns, left=4)
    for name, cost in costs.items():
        config = VARIANTS[name]
        words = (name, ", ".join(versions(name)), config.block, config.shortcut or "none")
        size = f"{config.default_size}x{config.default_size}"
        rows.add_row(*words, size, str(cost.depth), f"{cost.params:,}", _millions(cost.macs))
    console.print(rows)


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="A network of `keras-resnet list`.")],
    version: Annotated[str | None, typer.Option(help="v1, v1.5 or v2.")] = None,
    shortcut: Annotated[str | None, typer.Option(help="A, B, C or none.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any field of ResNetConfig, e.g. --set output_stride=8."),
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Image height and width.")] = None,
    classes: Annotated[int | None, typer.Option(min=1, help="Width of the classifier.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the network into this .png or .svg file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a network's stages with their shapes and costs, as Table 1 of the paper does."""
    with quiet():
        from keras_resnet.analysis.complexity import shortcut_counts, summarize, total
        from keras_resnet.builder import check_size
        from keras_resnet.plan import plan
        from keras_resnet.variants import get_config
    shorthands = {"version": version, "shortcut": shortcut}
    named = [f"{field}={value}" for field, value in shorthands.items() if value is not None]
    config = get_config(name, **_parse_settings([*(settings or []), *named]))
    network, side = plan(config), size or config.default_size
    check_size(network, (side, side))
    if plot is not None:
        from keras_resnet.analysis.diagram import draw

        draw(config, plot, name, (side, side, 3), classes)
    parts = summarize(config, (side, side, 3), classes)
    cost, shortcuts = total(parts), shortcut_counts(network)
    if as_json:
        _print_json(
            {
                "name": name,
                "config": dataclasses.asdict(config),
                "parts": [dataclasses.asdict(part) for part in parts],
                "total": dataclasses.asdict(cost),
                "shortcuts": shortcuts,
            }
        )
        return
    _print_parts(f"{name}: version {config.version}, shortcut {config.shortcut or 'none'}", parts)
    counts = [f"{count} {kind.replace('_', '-')}" for kind, count in shortcuts.items() if count]
    console.print(
        f"Shortcuts: {', '.join(counts) or 'none'}. "
        f"BN statistics: {cost.bn_statistics:,} numbers, not trained."
    )
    if plot is not None:
        console.print(f"Drawn: {plot}")


def _print_parts(title: str, parts: list[PartSummary]) -> None:
    from keras_resnet.analysis.complexity import total

    rows = table(("part", "layers", "output", "parameters", "MACs"), left=2, wrap=("layers",))
    for part in parts:
        shape = "x".join(str(length) for length in part.output_shape)
        rows.add_row(part.name, part.layers, shape, *_costs(part.complexity))
    cost = total(parts)
    rows.add_section()
    rows.add_row("total", f"{cost.depth} weighted layers", "", *_costs(cost))
    console.print(title)
    console.print(rows)


def _parse_settings(settings: list[str]) -> dict[str, Any]:
    """`field=value` pairs; values are JSON (`8`, `true`, `[2, 2]`, `null`) or plain strings."""
    parsed: dict[str, Any] = {}
    for setting in settings:
        field, equals, value = setting.partition("=")
        if not equals or not field:
            raise ValueError(f"Expected `--set field=value`. Received: --set {setting}")
        try:
            parsed[field] = json.loads(value)
        except json.JSONDecodeError:
            parsed[field] = None if value == "none" else value
    return parsed


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Print versions, devices and what does not work because a package is missing."""
    with quiet():
        from keras_resnet.doctor import diagnose

        found = diagnose()
    if as_json:
        _print_json(found)
    else:
        _print_diagnosis(found)
    if found["problem"]:
        raise RuntimeError(f"Keras cannot be imported: {found['problem']}")


def _print_diagnosis(found: dict[str, Any]) -> None:
    for name, installed in found["versions"].items():
        console.print(f"{name:20} {installed or 'not installed'}")
    console.print(f"{'backend':20} {found['backend']}")
    console.print(f"{'devices':20} {', '.join(found['devices']) or 'none'}")
    console.print("Optional:")
    for module, details in found["optional"].items():
        if details["version"]:
            state = f"{details['version']} for {details['purpose']}"
        else:
            install = f"pip install 'keras-resnets[{details['extra']}]'"
            state = f"missing, so not available: {details['purpose']}; {install}"
        console.print(f"  {module:30} {state}")


def _costs(cost: Any) -> tuple[str, str]:
    return f"{cost.params:,}", _millions(cost.macs)


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f} M"


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data, indent=2))


class _Interrupted(SystemExit):
    """A signal asked the process to end; what is on the stack cleans up on the way out."""


def _interrupt(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise _Interrupted(128 + signal_number)


def main() -> NoReturn:
    """Runs the command: every failure is one sentence and an exit code, never a traceback.

    KERAS_RESNET_TRACEBACK=1 in the environment shows the traceback of a failure, for reporting it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        # A terminal without Unicode gets question marks rather than no output.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # A warning is a sentence, without the place in the source that it comes from.
    warnings.formatwarning = lambda message, *_, **__: f"keras-resnet: {message}\n"
    try:
        code = app(standalone_mode=False)
    except _Interrupted as interruption:
        _fail("Interrupted. Earlier results are untouched", interruption.code)
    except Exception as error:
        if os.environ.get("KERAS_RESNET_TRACEBACK") == "1":
            raise
        _fail(_sentence(error), _exit_code(error))
    # Typer returns what the command returned, or the code of its own `Exit`.
    sys.exit(code if isinstance(code, int) else 0)


def _exit_code(error: Exception) -> int:
    bad_input = (ValueError, ImportError, FileExistsError)
    # Typer's own errors, about unknown commands and options, know their code.
    return int(getattr(error, "exit_code", 2 if isinstance(error, bad_input) else 1))


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    # Typer's own errors are worded by `format_message`.
    return str(getattr(error, "format_message", lambda: error)()) or type(error).__name__


def _fail(sentence: str, code: Any) -> NoReturn:
    typer.echo(f"keras-resnet: {sentence.rstrip('.')}.", err=True)
    sys.exit(code)
