"""Runs two batches at once: while one waits between operations, the other keeps the cores busy."""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Callable, Generator, Iterable

_THREADS = 2  # one batch at a time left a tenth of two cores idle


def per_thread(batch_size: int) -> int:
    """Return the number of images per thread, so that all threads together hold `batch_size` images."""
    return -(-batch_size // _THREADS)


def map_in_order(function: Callable, items: Iterable, threads: int = _THREADS) -> Generator:
    """Map a function over items in threads and yield the results in the order of the items.

    Args:
      function: takes one item. Threads call it concurrently.
      items: consumed in the calling thread, at most `threads` + 1 items ahead of the results.
      threads: the number of threads.

    Yields:
      `function(item)` for every item.

    Raises:
      Exception: the first error of `function`; pending calls are cancelled.
    """
    waiting: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
