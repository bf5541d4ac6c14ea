"""Stop a run in an orderly way: signal handling, and agreement between processes on the step to stop at."""

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
from libradet.utils.distributed import world_size


class StopAction(IntEnum):
    """Action requested by a process after a step; the highest value over all processes is applied."""

    NOTHING = 0
    SAVE = 1
    STOP = 2
    FAIL = 3


class CollectiveError(UserError):
    """Raised by all processes of a run at the same step.

    Attributes:
        shared: only one of the processes has to report it.
    """

    shared = True


class Interrupted(CollectiveError):
    """Training was stopped by a signal; the message contains the command that resumes it.

    Attributes:
        exit_code: as shells expect it of a process that was ended by this signal.
    """

    def __init__(self, signum: int, folder: Path) -> None:
        super().__init__(
            f"stopped by {signal.Signals(signum).name}, checkpoint saved; resume with: libradet train --resume {folder}"
        )
        self.exit_code = 128 + signum


class SignalHandler(AbstractContextManager):
    """Record SIGINT and SIGTERM instead of ending the process. A second signal has its usual effect.

    Args:
        log: prints a line.

    Attributes:
        received: number of the signal, None before the first.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, log: Callable[[str], None]) -> None:
        self.received: int | None = None
        self._log = log
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "SignalHandler":
        self.install()
        return self

    def install(self) -> None:
        """Install the handlers, also over those installed in the meantime; no effect outside the main thread."""
        if threading.current_thread() is threading.main_thread() and self.received is None:
            for signum in self.SIGNALS:
                previous = signal.signal(signum, self._handle)
                self._previous.setdefault(signum, previous)

    def _handle(self, signum: int, _frame: Any) -> None:
        self.received = signum
        name = signal.Signals(signum).name
        self._log(f"{name}: finishing this step, then saving; send it again to stop immediately")
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def __exit__(self, *_: object) -> None:
        self._restore()


class SignalSync:
    """Let all processes act at the same step.

    The actions of a step are reduced in the background, on the CPU, and known one step later, so no step waits for
    the network.
    """

    def __init__(self) -> None:
        self._group: Any = None if world_size() == 1 else dist.new_group(backend="gloo")
        self._pending: tuple[torch.Tensor, Any] | None = None

    def after_step(self, action: StopAction) -> StopAction:
        """Return the action to apply: this step's in a single process, else the highest of the previous step."""
        if self._group is None:
            return action
        agreed = self.wait()
        actions = torch.tensor(int(action))
        self._pending = (actions, dist.all_reduce(actions, dist.ReduceOp.MAX, self._group, async_op=True))
        return agreed

    def wait(self) -> StopAction:
        """Wait for the pending reduction, if there is one, and return its action."""
        if self._pending is None:
            return StopAction.NOTHING
        actions, work = self._pending
        self._pending = None
        work.wait()
        return StopAction(int(actions))

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is True in any process; a collective call."""
        if self._group is None:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX, self._group)
        return bool(flags)

    def first_message(self, message: str | None) -> str | None:
        """Return the message of the lowest rank that has one; a collective call."""
        if self._group is None:
            return message
        messages: list[str | None] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(messages, message, self._group)
        return next((m for m in messages if m is not None), None)
