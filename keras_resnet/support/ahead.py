"""Computation of results in threads before they are needed."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from keras_resnet.support.cores import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Limit of threads; more do not read disks faster.
_MOST_THREADS = 8


def results_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Yield the results of `function` for all items, in the order of the items.

    Args:
        function: called in threads; an exception is raised when its result is due.
        items: arguments of `function`.
        ahead: number of items that are processed before their results are requested, which bounds
            the memory for results.
    """
    waiting: collections.deque[Future[Result]] = collections.deque()
    pool = ThreadPoolExecutor(min(usable_cores(), _MOST_THREADS), "ahead")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
