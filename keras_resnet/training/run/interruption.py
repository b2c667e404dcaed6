"""Interruption of a training run between two steps by SIGTERM or Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class TrainingInterrupted(SystemExit):
    """Raised after SIGTERM or Ctrl-C, when the state of the run has been saved.

    It is a `SystemExit` with code 143 or 130.

    Attributes:
        kept: a sentence about the saved state that the run resumes from; empty if there is none.
    """

    kept = ""


class TrainingKeyboardInterrupted(KeyboardInterrupt):
    """`TrainingInterrupted` for Ctrl-C in a notebook or an interpreter, which should not end."""

    kept = ""


class Interruption:
    """A request to end the training.

    Attributes:
        signal: number of the signal that requested the end; None if there was none.
        handler: the previous handler of that signal.
    """

    signal: int | None = None
    handler: Any = None

    def raise_if_requested(self) -> None:
        """End the training if a signal has requested it.

        Raises:
            TrainingInterrupted: If there was a signal; the code is 128 plus its number.
            TrainingKeyboardInterrupted: If it was Ctrl-C and Python's own handler was in place.
        """
        if self.signal is not None:
            if self.handler is signal.default_int_handler:
                raise TrainingKeyboardInterrupted
            raise TrainingInterrupted(128 + self.signal)


@contextlib.contextmanager
def noting_signals() -> Iterator[Interruption]:
    """Record SIGTERM and SIGINT in the context instead of ending; a second signal ends the process.

    Outside the main thread, where Python handles no signals, nothing changes.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            # None is a handler that was not installed from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def note(number: int, frame: FrameType | None) -> None:
        interruption.signal, interruption.handler = number, before[number]
        restore()

    for number in (signal.SIGTERM, signal.SIGINT):
        # Shells start background jobs with SIGINT ignored, which must stay ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, note)
    try:
        yield interruption
    finally:
        restore()
