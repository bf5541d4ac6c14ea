"""Prefetching keeps order, passes exceptions on, and stays a few items ahead."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from libradet.utils.prefetch import prefetch


def test_order():
    assert list(prefetch(iter(range(1, 8)))) == list(range(1, 8))
    assert list(prefetch(iter([]))) == []


def test_number_of_items_ahead():
    prepared = []

    def items():
        for i in range(1, 9):
            prepared.append(i)
            yield i

    for item in prefetch(items(), count=2):
        time.sleep(0.01)
        assert len(prepared) <= item + 2


def test_exceptions():
    def items():
        yield 1
        raise KeyError("second")

    iterator = prefetch(items())
    assert next(iterator) == 1
    with pytest.raises(KeyError, match="second"):
        next(iterator)


def test_operations_in_the_thread_do_not_compete_for_cores():
    previous = torch.get_num_threads()
    torch.set_num_threads(2)

    def items():
        yield torch.get_num_threads()

    try:
        assert list(prefetch(items())) == [1]
        assert torch.get_num_threads() == 2
        with ThreadPoolExecutor(1) as other:
            assert other.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(previous)
