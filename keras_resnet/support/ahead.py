"""Work that threads do ahead of whoever takes the results."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from keras_resnet.support.cores import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

#: More threads do not read disks faster.
_MOST_THREADS = 8


def results_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Results of `function` for every item, in the order of the items.

    Threads work on up to `ahead` items beyond the one whose result is being waited for, so that no
    more results than that are held. An error of `function` is raised in its item's place.
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
