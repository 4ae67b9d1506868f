"""Batches in two threads: one batch leaves the cores gaps between its operations, a second one fills them."""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator

_THREADS = 2


def share(batch_size: int) -> int:
    """Pictures that a thread takes at a time, so that all together have `batch_size` in memory."""
    return -(-batch_size // _THREADS)


def in_order(function: Callable, items: Iterable) -> Iterator:
    """What the function gives for every item, in the items' order, worked out ahead by threads.

    Args:
      function: of one item; the threads call it at the same time.
      items: taken one by one, three ahead at the most, in the thread that asks for results.

    Raises:
      What `function` raises, in its place; what was not begun is left.
    """
    waiting: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > _THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
