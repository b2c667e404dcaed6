"""Who is told how far long work is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: Is told what is being done, and the share of the work that is done, 0 to 1.
Progress = Callable[[str, float], None]

#: Is called before long work begins, to tell how long that will take: with one step of the work, to
#: be timed; how many such steps there are; and how often what the first call of the step does
#: besides, such as tracing, is done.
Begin = Callable[[Callable[[], Any], float, float], None]

#: Is told what happens, in sentences.
Say = Callable[[str], None]


def unsaid(sentence: str) -> None:
    """A `Say` that shows nothing."""


def unseen(step: str, done: float) -> None:
    """A `Progress` that shows nothing."""


def unannounced(step: Callable[[], Any], steps: float, preparations: float) -> None:
    """A `Begin` that times nothing."""
