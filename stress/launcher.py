"""The command line in forked processes with everything imported, interrupted at chosen moments."""

import multiprocessing
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

TIMEOUT = 240.0


class Interruption(NamedTuple):
    """A signal to a process at a chosen moment, or a limit on the size of its files.

    Attributes:
        moment: "start" (of the process), "step", "validation", "write" (of a checkpoint, half written), "swap" (while
            last.ckpt is replaced), or "limit" (on the size of files).
        count: occurrence of the moment, from 1.
        signum: signal to send.
        share: share of a checkpoint's bytes that are written; for "limit" the limit in KiB.
        rank: process that is interrupted.
    """

    moment: str
    count: int
    signum: int
    share: float = 0.5
    rank: int = 0


class ProcessOutcome(NamedTuple):
    """Exit codes (None: timed out) and the output of all processes."""

    codes: list[int | None]
    output: str


class Running(NamedTuple):
    """Running processes of a command line."""

    processes: list[Any]

    @property
    def alive(self) -> bool:
        """Whether any process is still running."""
        return any(process.is_alive() for process in self.processes)

    def children(self) -> list[int]:
        """Return the process ids of the first one's children, such as data loader workers."""
        pid = self.processes[0].pid
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(child) for child in file.read().split()]


def launch(
    args: list[str],
    folder: Path,
    plan: Interruption | None = None,
    processes: int = 1,
    delay: float | None = None,
    while_running: Callable[[Running], None] | None = None,
    timeout: float = TIMEOUT,
) -> ProcessOutcome:
    """Run the command line and wait for its end.

    Args:
        folder: for temporary logs.
        plan: interruption of one of the processes.
        delay: kill all processes after this number of seconds.
        while_running: called with the running processes.
        timeout: seconds after which the processes are killed.
    """
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stress.launcher", "libradet.training.run", "libradet.training.options", "timm"])
    folder.mkdir(parents=True, exist_ok=True)
    logs = [str(folder / f"log-{time.monotonic_ns()}-{rank}") for rank in range(processes)]
    port = _free_port()
    environments = [_environment(rank, processes, port) if processes > 1 else {} for rank in range(processes)]
    running = [
        context.Process(
            target=_run_command, args=(args, environment, log, plan if plan and plan.rank == rank else None)
        )
        for rank, (environment, log) in enumerate(zip(environments, logs, strict=True))
    ]
    for process in running:
        process.start()
    if delay is not None:
        running[0].join(delay)
        for process in running:
            process.kill()
    if while_running is not None:
        while_running(Running(running))
    deadline = time.monotonic() + timeout
    for process in running:
        process.join(max(0.1, deadline - time.monotonic()))
    codes = [process.exitcode for process in running]
    for process in running:
        process.kill()
        process.join()
    output = "".join(Path(log).read_text(errors="replace") for log in logs if Path(log).exists())
    for log in logs:
        Path(log).unlink(missing_ok=True)
    return ProcessOutcome(codes, output)


def _run_command(args: list[str], environment: dict[str, str], log: str, plan: Interruption | None) -> None:
    os.setpgrp()
    os.environ.update(environment)
    os.environ["OMP_NUM_THREADS"] = "1"
    opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(opened, number)
    import torch

    from libradet.cli import main

    torch.set_num_threads(1)
    if plan is not None:
        _install(plan)
    sys.exit(main(args))


def _install(plan: Interruption) -> None:
    """Patch the function that the plan names, so that the signal arrives during its call."""
    import torch

    from libradet.training.module import DetectorModule

    def send_signal(*_: Any) -> None:
        os.kill(os.getpid(), plan.signum)

    if plan.moment == "start":
        send_signal()
    elif plan.moment == "step":
        DetectorModule.training_step = _interrupting(DetectorModule.training_step, plan.count, send_signal)
    elif plan.moment == "validation":
        DetectorModule.validation_step = _interrupting(DetectorModule.validation_step, plan.count, send_signal)
    elif plan.moment == "write":
        save: Any = torch.save

        def save_partially(content: Any, path: Any) -> None:
            save(content, path)
            with open(path, "r+b") as file:
                file.truncate(int(plan.share * os.path.getsize(path)))
            send_signal()

        torch.save = _interrupting(save, plan.count, save_partially)
    elif plan.moment == "swap":
        _interrupt_swap(plan.count, send_signal)
    elif plan.moment == "limit":
        size = int(1024 * plan.share)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _interrupting(function: Callable, count: int, action: Callable[..., None]) -> Callable:
    """Return the function with the action before its ``count``-th call."""
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            action(*args)
        return function(*args, **kwargs)

    return wrapped


def _interrupt_swap(count: int, action: Callable[..., None]) -> None:
    """Patch os.replace: the action runs after the ``count``-th renaming of a checkpoint."""
    replace: Any = os.replace
    after_rename = _interrupting(lambda: None, count, action)

    def swap(source: Any, target: Any) -> None:
        replace(source, target)
        if Path(target).name in ("last.ckpt", "previous.ckpt"):
            after_rename()

    os.replace = swap


def _environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """Return the environment variables that a launcher such as torchrun sets."""
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes), "NODE_RANK": "0"}
    return world | {"RANK": str(rank), "LOCAL_RANK": str(rank)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
