"""Deferred signals, and calls that signals can interrupt."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar, cast

Result = TypeVar("Result")


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Deliver SIGINT and SIGTERM after the block; only the main thread receives signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, frame: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for waiting in received:
            signal.raise_signal(waiting)


def call_in_thread(function: Callable[[], Result]) -> Result:
    """Call a function in a thread, so that signals can interrupt it, and return its result.

    A function that waits for a server, in Rust or in a lookup of a host name, may block signals for
    minutes. When a signal arrives, the thread is abandoned; it ends with the function or the
    process.

    Raises:
        Exception: the exception of the function.
    """
    outcome: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            outcome.put((function(), None))
        except BaseException as error:
            outcome.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    result, error = outcome.get()
    if error is not None:
        raise error
    return cast(Result, result)
