"""Shared by all studies: options, estimates of the time, and the files of the results."""

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

Output = Annotated[Path, typer.Option(help="Folder for the figure (.png, .svg) and its .json.")]
Images = Annotated[int, typer.Option(min=1, help="Largest number of images.")]
Split = Annotated[str, typer.Option(help="validation, test, train or all.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of random choices.")]


@contextlib.contextmanager
def watched(title: str, what: str) -> Iterator[dict[str, Any]]:
    """Return a context that prints the estimated time of a study, and shows its progress.

    Args:
        title: text before the progress bar.
        what: the work, which completes the sentence "About 3 s for …".

    Yields:
        The keyword arguments `begin` and `progress` of a study.
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
    """Return an estimated duration as text."""
    if seconds < 1:
        return "Less than 1 s"
    return f"About {seconds:.0f} s" if seconds < 100 else f"About {seconds / 60:.0f} min"


def check_output(output: Path, name: str, overwrite: bool) -> None:
    """Check, before the work begins, that a study can be saved in a folder.

    Raises:
        FileExistsError: files of this study exist, and `overwrite` is not set.
        ValueError: the folder is not writable.
    """
    from keras_resnet.support.files import check_new, check_writable

    for file in _names(name):
        check_new(output / file, overwrite)
    check_writable(output)


def _names(name: str) -> list[str]:
    return [f"{name}.{suffix}" for suffix in ("png", "svg", "json")]


def save_study(output: Path, name: str, figure: Figure, values: dict[str, Any]) -> None:
    """Write the figure of a study as PNG and SVG, and its results as JSON; or nothing on failure.

    Existing files are replaced; call `check_output` before the work.
    """
    from keras_resnet.support.files import partial_directory, publish

    names = _names(name)
    with partial_directory(output) as staging:
        for file in names[:2]:
            figure.savefig(staging / file, dpi=150)
        (staging / names[2]).write_text(json.dumps(values, indent=2) + "\n", "utf-8")
        publish(staging, names)
    console.print(f"Written: {', '.join(str(output / name) for name in names)}")
