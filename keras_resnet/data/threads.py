"""A parallel `map` that holds few results in memory."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from keras_resnet.support.cores import usable_cores

#: Tasks per thread that are in progress or whose results wait for earlier ones.
_AHEAD = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int | None = None,
    chunk: int = 1,
) -> Generator[Result, None, None]:
    """Yield `function(item)` for every item, in the order of the items, computed in threads.

    Args:
        function: a thread-safe function.
        items: the items, consumed a few tasks ahead of the results.
        workers: number of threads; by default one per core.
        chunk: items per task.
    """
    count, remaining = workers or usable_cores(), iter(items)
    pool = ThreadPoolExecutor(count)
    waiting: collections.deque[Future[list[Result]]] = collections.deque()
    try:
        while taken := list(itertools.islice(remaining, chunk)):
            waiting.append(pool.submit(lambda task: [function(item) for item in task], taken))
            if len(waiting) >= _AHEAD * count:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
