"""Translation of messages from Python arguments to the options of the command.

The message of a Python function may name `overwrite=True`; the command prints `--overwrite`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import typer

from keras_resnet.cli.options import app
from keras_resnet.networks.config import ResNetConfig

#: Options with another name than their Python argument.
_OTHER_NAMES = {
    "jit_compile": "xla",
    "synchronized_bn": "sync-bn",
    "out_dir": "output",
    "methods": "method",
    "batch_sizes": "batch",
    "class_index": "class",
    "validation_labels": "val-labels",
}
#: Parts of a recipe: fields such as `optimizer.learning_rate` are set with `--set`.
_PARTS_OF_RECIPES = ("optimizer", "loss", "schedule", "augmentation", "average", "network")
_NETWORK_FIELDS = {field.name for field in dataclasses.fields(ResNetConfig)}

#: Commands that replace Python functions.
_COMMANDS = {"`list_models()`": "`keras-resnet list`", "`list_weights()`": "`keras-resnet weights`"}

_ARGUMENT = re.compile(r"`([a-z_0-9]+(?:\.[a-z_0-9]+)?)(?:=([^`]+))?`")


def in_options(text: str) -> str:
    """Return `text` with options of the running command in place of Python arguments.

    Arguments without an option stay as they are. Functions that list names become commands.
    """
    for function, command in _COMMANDS.items():
        text = text.replace(function, command)
    options = _options(sys.argv[1:])

    def replaced(found: re.Match[str]) -> str:
        option = _option(found[1], found[2], options)
        return found[0] if option is None else f"`{option}`"

    return _ARGUMENT.sub(replaced, text)


def _option(name: str, value: str | None, options: set[str]) -> str | None:
    """Return the option for `name=value`, or for `name` alone; None if there is none."""
    part, dot, _ = name.partition(".")
    plain = None if value is None else value.strip("'\"")
    if dot or (f"--{_dashed(name)}" not in options and name in _NETWORK_FIELDS):
        setting = "--set" if dot else "--net"
        known = setting in options and (not dot or part in _PARTS_OF_RECIPES)
        return f"{setting} {name if plain is None else f'{name}={plain}'}" if known else None
    option, opposite = f"--{_dashed(name)}", f"--no-{_dashed(name)}"
    if value == "False":
        return opposite if opposite in options else None
    if option not in options:
        return None
    return option if plain in (None, "True") else f"{option} {shlex.quote(str(plain))}"


def _dashed(name: str) -> str:
    return _OTHER_NAMES.get(name, name.replace("_", "-"))


@functools.cache
def _application() -> Any:
    return typer.main.get_command(app)


def _options(arguments: Sequence[str]) -> set[str]:
    """Return the options of the command that these arguments call."""
    command = _application()
    for word in arguments:
        command = getattr(command, "commands", {}).get(word)
        if command is None:
            return set()
        if not hasattr(command, "commands"):
            return {
                option
                for parameter in command.params
                for option in (*parameter.opts, *parameter.secondary_opts)
            }
    return set()
