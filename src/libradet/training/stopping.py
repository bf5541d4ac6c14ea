"""Stopping in an orderly way: signals, and processes that agree on when."""

import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import IntEnum
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from libradet.errors import UserError


class Wish(IntEnum):
    """What a process wants to happen after this step; the highest wish of all processes is granted."""

    NOTHING = 0
    SAVE = 1
    STOP = 2
    FAIL = 3


class AgreedError(UserError):
    """Raised by all processes of a run at the same step.

    Attributes:
        shared: it is enough that one of them reports it.
    """

    shared = True


class Interrupted(AgreedError):
    """Training was stopped by a signal; the message says how to go on.

    Attributes:
        exit_code: what a shell expects of a process that such a signal has ended.
    """

    def __init__(self, signum: int, folder: Path) -> None:
        super().__init__(
            f"stopped by {signal.Signals(signum).name}, saved; continue with: libradet train --resume {folder}"
        )
        self.exit_code = 128 + signum


class SignalWatch(AbstractContextManager):
    """Notes Ctrl-C and SIGTERM instead of dying from them. A second signal works as ever."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, announce: Callable[[str], None]) -> None:
        self.received: int | None = None
        self._announce = announce
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "SignalWatch":
        self.install()
        return self

    def install(self) -> None:
        """Take over the signals, also from whoever took them since; only a main thread can."""
        if threading.current_thread() is threading.main_thread() and self.received is None:
            for signum in self.SIGNALS:
                before = signal.signal(signum, self._note)
                self._before.setdefault(signum, before)

    def _note(self, signum: int, _frame: Any) -> None:
        self.received = signum
        self._announce(f"{signal.Signals(signum).name}: finishing this step, then saving; once more to stop at once")
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def __exit__(self, *_: object) -> None:
        self._restore()


class Agreement:
    """Lets all processes act at the same step.

    The wishes of a step travel in the background and are known one step later, so nobody waits, and a
    GPU is not involved.
    """

    def __init__(self) -> None:
        alone = not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1
        self._group: Any = None if alone else dist.new_group(backend="gloo")
        self._pending: tuple[torch.Tensor, Any] | None = None

    def after_step(self, wish: Wish) -> Wish:
        """What to do now: this step's wish if alone, else the highest wish of the step before."""
        if self._group is None:
            return wish
        granted = self.settle()
        wishes = torch.tensor(int(wish))
        self._pending = (wishes, dist.all_reduce(wishes, dist.ReduceOp.MAX, self._group, async_op=True))
        return granted

    def settle(self) -> Wish:
        """The highest wish still on its way; afterwards nothing is."""
        if self._pending is None:
            return Wish.NOTHING
        wishes, work = self._pending
        self._pending = None
        work.wait()
        return Wish(int(wishes))

    def any(self, mine: bool) -> bool:
        """Whether it holds for any process; all processes have to ask."""
        if self._group is None:
            return mine
        flag = torch.tensor(int(mine))
        dist.all_reduce(flag, dist.ReduceOp.MAX, self._group)
        return bool(flag)

    def first(self, mine: str | None) -> str | None:
        """The message of the lowest rank that has one; all processes have to ask."""
        if self._group is None:
            return mine
        messages: list[str | None] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(messages, mine, self._group)
        return next((m for m in messages if m is not None), None)
