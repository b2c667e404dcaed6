"""Who is told how far long work is."""

from __future__ import annotations

from collections.abc import Callable

#: Is told what is being done, and the share of the work that is done, 0 to 1.
Progress = Callable[[str, float], None]

#: Is told what happens, in sentences.
Say = Callable[[str], None]


def unsaid(sentence: str) -> None:
    """A `Say` that shows nothing."""


def unseen(step: str, done: float) -> None:
    """A `Progress` that shows nothing."""
