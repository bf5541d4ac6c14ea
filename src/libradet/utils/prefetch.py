"""Preparation of the next items of an iterator in a thread, while the current one is processed."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterator[T], count: int = 2) -> Iterator[T]:
    """Yield the items of an iterator, of which a thread prepares up to ``count`` ahead; its exceptions are raised."""
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[Future[T | None]] = deque(thread.submit(next, items, None) for _ in range(count))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, items, None))
            yield item
