"""Shared parts of all studies: options, estimates of time, and the files of a result."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_resnet.support.terminal import console, progress_bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Output = Annotated[Path, typer.Option(help="Folder for the picture (.png, .svg) and its .json.")]
Images = Annotated[int, typer.Option(min=1, help="How many images at most.")]
Split = Annotated[str, typer.Option(help="validation, test, train or all.")]
Seed = Annotated[int, typer.Option(min=0, help="Of random choices.")]
Numbers = Annotated[str | None, typer.Option(help="Numbers, separated by commas, such as 1,2,5.")]


@contextlib.contextmanager
def watched(title: str, what: str) -> Iterator[dict[str, Any]]:
    """Says how long a study will take before it begins, and shows how far it is.

    Args:
        title: what stands before the bar.
        what: what takes the time, as in "About 3 s for …".

    Yields:
        The keywords `begin` and `progress` of a study.
    """
    start = time.monotonic()
    with progress_bar(title, lines=10) as show:

        def begin(step: Callable[[], Any], steps: float, preparations: float) -> None:
            nonlocal start
            cold, warm = _seconds(step), _seconds(step)
            seconds = steps * warm + preparations * max(cold - warm, 0)
            console.print(f"{_about(seconds)} for {what}.")
            start = time.monotonic()

        def progress(words: str, done: float) -> None:
            left = (time.monotonic() - start) * (1 / max(done, 1e-9) - 1)
            show(f"{words}, {_about(left).lower()} left", done)

        yield {"begin": begin, "progress": progress}


def _seconds(step: Callable[[], Any]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _about(seconds: float) -> str:
    """A time that nobody knows exactly."""
    if seconds < 1:
        return "Less than 1 s"
    return f"About {seconds:.0f} s" if seconds < 100 else f"About {seconds / 60:.0f} min"


def check_output(output: Path, name: str, overwrite: bool) -> None:
    """Refuse a folder that a study cannot be written to, before the work.

    Raises:
        FileExistsError: files of this study are there, and are not to be overwritten.
        ValueError: it cannot be written to.
    """
    from keras_resnet.support.files import check_new, check_writable

    for file in _names(name):
        check_new(output / file, overwrite)
    check_writable(output)


def _names(name: str) -> list[str]:
    return [f"{name}.{suffix}" for suffix in ("png", "svg", "json")]


def save_study(output: Path, name: str, figure: Figure, values: dict[str, Any]) -> None:
    """Write a study as a picture in two formats and as JSON, or nothing of it.

    Files that are there are replaced: `check_output` has refused those that must not be.
    """
    from keras_resnet.support.files import partial_directory, publish

    names = _names(name)
    with partial_directory(output) as staging:
        for picture in names[:2]:
            figure.savefig(staging / picture, dpi=150)
        (staging / names[2]).write_text(json.dumps(values, indent=2) + "\n", "utf-8")
        publish(staging, names)
    console.print(f"Written: {', '.join(str(output / name) for name in names)}")
