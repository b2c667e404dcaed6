"""Types of callbacks about the progress of long work, and callbacks that show nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: Callback with the current step, and the share of the work that is done, from 0 to 1.
Progress = Callable[[str, float], None]

#: Callback before long work, which estimates its time: with one step of the work, to be timed; the
#: number of such steps; and the number of times that the extra work of a first step, such as
#: tracing, is done.
Begin = Callable[[Callable[[], Any], float, float], None]

#: Callback with a sentence about an event.
Say = Callable[[str], None]


def unsaid(sentence: str) -> None:
    """Show nothing; a `Say`."""


def unseen(step: str, done: float) -> None:
    """Show nothing; a `Progress`."""


def unannounced(step: Callable[[], Any], steps: float, preparations: float) -> None:
    """Time nothing; a `Begin`."""
