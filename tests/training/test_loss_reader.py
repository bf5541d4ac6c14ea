"""Tests of reading losses."""

import math

import torch

from libradet.training.loss_reader import AsyncLossReader


def test_losses_are_drained_once_and_failures_recorded():
    reader = AsyncLossReader()
    reader.enqueue({"class": torch.tensor(1.0, requires_grad=True), "box": torch.tensor(2.0)}, [3, 4])
    (step_losses,) = reader.drain()
    assert step_losses.losses == {"class": 1.0, "box": 2.0}
    assert step_losses.image_indices == [3, 4]
    assert reader.drain() == []
    assert reader.failure is None
    reader.enqueue({"class": torch.tensor(math.nan), "box": torch.tensor(2.0)}, [5])
    reader.enqueue({"class": torch.tensor(1.0), "box": torch.tensor(math.inf)}, [6])
    reader.poll(wait=True)
    assert reader.failure is not None
    assert reader.failure.image_indices == [5]


def test_extras_do_not_count_as_losses():
    reader = AsyncLossReader()
    reader.enqueue(
        {"class": torch.tensor(1.0)}, [3], {"log_variance_class": torch.tensor(math.inf, requires_grad=True)}
    )
    (step_losses,) = reader.drain()
    assert (step_losses.losses, step_losses.extras) == ({"class": 1.0}, {"log_variance_class": math.inf})
    assert step_losses.is_finite
