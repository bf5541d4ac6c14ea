"""Read losses from the device without making training steps wait for them."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class StepLosses:
    """Losses of one batch as numbers.

    Attributes:
        losses: by name.
        image_indices: rows of the images of the batch in the dataset.
        extras: other logged numbers, by name.
    """

    losses: dict[str, float]
    image_indices: list[int]
    extras: dict[str, float] = field(default_factory=dict)

    @property
    def is_finite(self) -> bool:
        """Whether no loss is NaN or infinite."""
        return all(isfinite(value) for value in self.losses.values())


@dataclass(frozen=True)
class _PendingCopy:
    names: list[str]
    values: Tensor
    event: torch.cuda.Event | None
    image_indices: list[int]
    num_losses: int

    def read(self) -> StepLosses:
        pairs = list(zip(self.names, self.values.tolist(), strict=True))
        return StepLosses(dict(pairs[: self.num_losses]), self.image_indices, dict(pairs[self.num_losses :]))


class AsyncLossReader:
    """Queue of losses: tensors are enqueued, numbers are read once the device has computed them.

    On a CPU that is immediately. On a GPU they are copied in the background and arrive one or more steps later, so no
    step waits for its own result.

    Attributes:
        failure: the first batch with a NaN or infinite loss.
        latest: the last losses read.
    """

    def __init__(self) -> None:
        self.failure: StepLosses | None = None
        self.latest: StepLosses | None = None
        self._pending: deque[_PendingCopy] = deque()
        self._unread: list[StepLosses] = []

    def enqueue(
        self,
        losses: dict[str, Tensor],
        image_indices: list[int],
        extras: Mapping[str, Float[Tensor, ""]] | None = None,
    ) -> None:
        """Start copying the losses of a batch, and other numbers to log with them."""
        terms = [*losses.items(), *(extras or {}).items()]
        values = torch.stack([value.detach().float() for _, value in terms])
        event = None
        if values.is_cuda:
            pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            pinned.copy_(values, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            values = pinned
        self._pending.append(_PendingCopy([name for name, _ in terms], values, event, image_indices, len(losses)))

    def poll(self, wait: bool = False) -> None:
        """Read what the device has finished; with ``wait``, everything enqueued."""
        while self._pending:
            event = self._pending[0].event
            if event is not None and not event.query():
                if not wait:
                    return
                event.synchronize()
            step_losses = self._pending.popleft().read()
            self._unread.append(step_losses)
            self.latest = step_losses
            if self.failure is None and not step_losses.is_finite:
                self.failure = step_losses

    def drain(self, wait: bool = False) -> list[StepLosses]:
        """Poll, and return the losses read since the last call, oldest first."""
        self.poll(wait)
        unread, self._unread = self._unread, []
        return unread
