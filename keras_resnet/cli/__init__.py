"""The `keras-resnet` command.

Exit codes: 0 done, 1 failed, 2 bad arguments or input, 130 or 143 interrupted.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import io
import os
import pkgutil
import signal
import sys
import threading
import warnings
from types import FrameType
from typing import Any, NoReturn

from keras_resnet.cli.options import app
from keras_resnet.cli.wording import in_options
from keras_resnet.support.disks import DiskFullError, raise_if_full
from keras_resnet.support.suggest import nearest
from keras_resnet.support.terminal import complain
from keras_resnet.support.text import sentence

# Every module of this package adds its commands to the application.
for _module in pkgutil.walk_packages(__path__, f"{__name__}."):
    importlib.import_module(_module.name)


#: Seconds that an interrupted process has for its exit handlers.
_PATIENCE = 5.0


class _Interrupted(SystemExit):
    """Exception for a signal to end, which lets context managers clean up."""


def _interrupt(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise _Interrupted(128 + signal_number)


def main() -> NoReturn:
    """Run the command; a failure prints one sentence and sets the exit code.

    With KERAS_RESNET_TRACEBACK=1 in the environment, a failure prints its traceback instead.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        # A terminal without Unicode shows question marks instead of failing.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # Print warnings without their place in the source code.
    warnings.formatwarning = _warning
    try:
        code = app(standalone_mode=False)
    except SystemExit as interruption:
        if interruption.code not in (130, 143):
            raise
        # Training reports what it has saved; other commands leave no partial results.
        kept = getattr(interruption, "kept", "") or "Earlier results are untouched"
        _say(f"Interrupted. {kept}")
        _end_at_once(int(interruption.code))
    except Exception as error:
        if os.environ.get("KERAS_RESNET_TRACEBACK") == "1":
            raise
        try:
            raise_if_full(error, only_reported=True)
        except DiskFullError as full:
            error = full
        _say(_sentence(error), getattr(error, "has_lines", False))
        sys.exit(_exit_code(error))
    # Typer returns the value of the command, or the code of `typer.Exit`.
    sys.exit(code if isinstance(code, int) else 0)


def _warning(message: Warning | str, *_: Any, **__: Any) -> str:
    return f"keras-resnet: {sentence(in_options(str(message)))}\n"


def _exit_code(error: Exception) -> int:
    bad_input = (ValueError, ImportError, FileExistsError)
    # Typer's errors, about unknown commands and options, have an exit code.
    return int(getattr(error, "exit_code", 2 if isinstance(error, bad_input) else 1))


def _sentence(error: Any) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if hasattr(error, "possibilities"):  # Typer's error about an unknown option.
        option = error.option_name
        return f"No such option: {option}{_option_hint(option, error)}"
    # Typer's errors return their message from `format_message`.
    return str(getattr(error, "format_message", lambda: error)()) or type(error).__name__


def _option_hint(option: str, error: Any) -> str:
    """Return a hint at the option, field or argument that an unknown option probably means."""
    from keras_resnet.networks.config import FIELDS
    from keras_resnet.training.recipes.recipe import fields_of
    from keras_resnet.training.recipes.table import RECIPES

    parameters = error.ctx.command.params
    arguments = [item.name for item in parameters if item.param_type_name == "argument"]
    own = [
        name.lstrip("-") for item in parameters for name in item.opts if item.name not in arguments
    ]
    choices = {field: f"--net {field}=VALUE" for field in FIELDS if "net" in own}
    if "set" in own:
        fields = fields_of(RECIPES["finetune"])
        choices |= {field: f"--set {field}=VALUE" for field in fields}
    choices = {**choices, **{name: f"--{name}" for name in own}}
    found = nearest(option.lstrip("-"), {**choices, **dict.fromkeys(arguments, "")})
    if found and found[0] in arguments:
        words = (_path_of(error.ctx), *(name.upper() for name in arguments))
        return f". {found[0].upper()} is an argument without an option name: `{' '.join(words)}`"
    named = [choices[name] for name in found if name in choices]
    return f". Did you mean {' or '.join(named)}?" if named else ""


def _path_of(context: Any) -> str:
    """Return the words that call a command, such as `keras-resnet analyze lesion`."""
    if context.parent is None:
        return "keras-resnet"
    return f"{_path_of(context.parent)} {context.info_name}"


def _say(text: str, has_lines: bool = False) -> None:
    text = in_options(text)
    complain(text if text.endswith("?") else f"{text.rstrip('.')}.", has_lines)


def _end_at_once(code: int) -> NoReturn:
    """End the process without waiting for its threads, such as a download that makes no progress.

    Exit handlers run, but for `_PATIENCE` seconds only.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    latest = threading.Timer(_PATIENCE, os._exit, (code,))
    latest.daemon = True
    latest.start()
    atexit._run_exitfuncs()
    os._exit(code)
