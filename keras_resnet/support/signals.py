"""Signals that wait until something is done, and work that does not make them wait."""

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
    """Delivers SIGINT and SIGTERM after the block. Other threads are never interrupted anyway."""
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
    """Calls a function that a signal does not have to wait for, and returns its result.

    What waits for servers, in Python, in Rust or for names of hosts, may not notice signals for
    minutes. In a thread of its own it is left behind when one comes, and goes on until it is done
    or the process ends.

    Raises:
        Exception: what the function raises.
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
