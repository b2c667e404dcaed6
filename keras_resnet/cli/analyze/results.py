"""What all studies share: their options, the time that is left, and the files of a result."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_resnet.support.terminal import console

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Output = Annotated[Path, typer.Option(help="Folder for the picture (.png, .svg) and its .json.")]
Images = Annotated[int, typer.Option(min=1, help="How many images at most.")]
Split = Annotated[str, typer.Option(help="validation, test, train or all.")]
Seed = Annotated[int, typer.Option(min=0, help="Of random choices.")]
Numbers = Annotated[str | None, typer.Option(help="Numbers, separated by commas, such as 1,2,5.")]


def with_time_left(step: Any) -> Any:
    """Adds to every step how long the rest will take, at the speed so far."""
    begin = time.monotonic()

    def say(words: str, done: float) -> None:
        left = (time.monotonic() - begin) * (1 / max(done, 1e-9) - 1)
        step(f"{words}, about {left:,.0f} s left", done)

    return say


def save_study(output: Path, name: str, figure: Figure, values: dict[str, Any]) -> None:
    """Writes a study as a picture in two formats and as JSON, or nothing of it."""
    from keras_resnet.support.files import partial_directory, publish

    names = [f"{name}.{suffix}" for suffix in ("png", "svg", "json")]
    with partial_directory(output) as staging:
        for picture in names[:2]:
            figure.savefig(staging / picture, dpi=150)
        (staging / names[2]).write_text(json.dumps(values, indent=2) + "\n", "utf-8")
        publish(staging, names)
    console.print(f"Written: {', '.join(str(output / name) for name in names)}")
