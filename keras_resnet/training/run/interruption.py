"""Ending a training run between two steps, on SIGTERM or Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class TrainingInterrupted(SystemExit):
    """The process was asked to end; what can be resumed is saved. Its code is 143 or 130.

    Attributes:
        kept: a sentence about the checkpoint that the run goes on from; empty if there is none.
    """

    kept = ""


class TrainingKeyboardInterrupted(KeyboardInterrupt):
    """The same for Ctrl-C where it is Python's: a notebook or an interpreter is not to end."""

    kept = ""


class Interruption:
    """The signal that asked for an end, if one did; `handler` would have handled it."""

    signal: int | None = None
    handler: Any = None

    def raise_if_requested(self) -> None:
        """Ends the training if that was asked for.

        Raises:
            TrainingInterrupted: with 128 plus the number of the signal.
            TrainingKeyboardInterrupted: where Ctrl-C raises a `KeyboardInterrupt`.
        """
        if self.signal is not None:
            if self.handler is signal.default_int_handler:
                raise TrainingKeyboardInterrupted
            raise TrainingInterrupted(128 + self.signal)


@contextlib.contextmanager
def noting_signals() -> Iterator[Interruption]:
    """Notes SIGTERM and SIGINT instead of dying of them; a second one ends the process.

    Outside the main thread, where Python has no signals, they stay what they are.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            # None: a handler that was not installed from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def note(number: int, frame: FrameType | None) -> None:
        interruption.signal, interruption.handler = number, before[number]
        restore()

    for number in (signal.SIGTERM, signal.SIGINT):
        # Shells start background jobs with SIGINT ignored, and that is to stay so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, note)
    try:
        yield interruption
    finally:
        restore()
