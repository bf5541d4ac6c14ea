"""Reads the losses of a step without making the device wait."""

from collections import deque
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor


@dataclass(frozen=True)
class Measured:
    """Losses of one batch as numbers, and the rows of its pictures in the data set."""

    losses: dict[str, float]
    pictures: list[int]

    @property
    def finite(self) -> bool:
        """Whether every term is a number."""
        return all(isfinite(v) for v in self.losses.values())


class LossWatch:
    """Losses go in as tensors and come out as numbers once the device has computed them.

    On a CPU that is at once. On a GPU they are copied in the background and come out one or more steps
    later, so that no step waits for its own result.

    Attributes:
        failure: the first batch whose losses turned out not to be finite.
    """

    def __init__(self) -> None:
        self.failure: Measured | None = None
        self._waiting: deque[tuple[list[str], Tensor, torch.cuda.Event | None, list[int]]] = deque()
        self._arrived: list[Measured] = []

    def put(self, losses: dict[str, Tensor], pictures: list[int]) -> None:
        """Hand in the losses of a batch."""
        values = torch.stack([v.detach().float() for v in losses.values()])
        event = None
        if values.is_cuda:
            pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            pinned.copy_(values, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            values = pinned
        self._waiting.append((list(losses), values, event, pictures))

    def poll(self, wait: bool = False) -> None:
        """Read what the device has finished; with ``wait``, everything handed in."""
        while self._waiting:
            names, values, event, pictures = self._waiting[0]
            if event is not None and not event.query():
                if not wait:
                    return
                event.synchronize()
            self._waiting.popleft()
            measured = Measured(dict(zip(names, values.tolist(), strict=True)), pictures)
            self._arrived.append(measured)
            if self.failure is None and not measured.finite:
                self.failure = measured

    def take(self) -> list[Measured]:
        """All that is known by now and was not taken before, oldest first."""
        self.poll()
        taken, self._arrived = self._arrived, []
        return taken
