"""Preparation of the next items of an iterator in a thread, while the current one is processed."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def prefetch(items: Iterator[T], count: int = 2) -> Iterator[T]:
    """Yield the items of an iterator, of which a thread prepares up to ``count`` ahead; its exceptions are raised.

    Torch's operations in that thread are not parallel, so that they do not compete for cores with those of the caller.
    """
    with _single_threaded_executor() as thread:
        waiting: deque[Future[T | None]] = deque(thread.submit(next, items, None) for _ in range(count))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, items, None))
            yield item


def _single_threaded_executor() -> ThreadPoolExecutor:
    """Return an executor of one thread, in which torch's operations run in this thread alone."""
    num_threads = torch.get_num_threads()
    executor = ThreadPoolExecutor(1)
    executor.submit(_use_one_thread).result()
    # The number holds for the thread that sets it, and for all threads that start later: those get the caller's again.
    torch.set_num_threads(num_threads)
    return executor


def _use_one_thread() -> None:
    # The first operation of a thread sets the process's number, unless it was requested before.
    torch.get_num_threads()
    torch.set_num_threads(1)
