"""The command line in processes of its own that share the time it takes to import everything, and end as planned."""

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

PATIENCE = 240.0


class Plan(NamedTuple):
    """When a process gets a signal, or finds that something cannot be written.

    Attributes:
        moment: "start" (before anything), "step", "validation", "write" (a checkpoint half written), "swap" (between
            last.ckpt's two names), or "limit" (of the size of files).
        count: the how-manieth time.
        signum: what is sent.
        share: of a checkpoint's bytes that are written, or kilobytes of the limit.
        rank: process that gets it.
    """

    moment: str
    count: int
    signum: int
    share: float = 0.5
    rank: int = 0


class Ended(NamedTuple):
    """Exit codes (None: had to be given up on), and what all processes wrote."""

    codes: list[int | None]
    said: str


class Running(NamedTuple):
    """Processes of a command line that runs."""

    processes: list[Any]

    @property
    def alive(self) -> bool:
        """Whether any of them still runs."""
        return any(process.is_alive() for process in self.processes)

    def children(self) -> list[int]:
        """Processes that the first one has started, such as those that load images."""
        pid = self.processes[0].pid
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(child) for child in file.read().split()]


def launch(
    args: list[str],
    folder: Path,
    plan: Plan | None = None,
    processes: int = 1,
    delay: float | None = None,
    meanwhile: Callable[[Running], None] | None = None,
    patience: float = PATIENCE,
) -> Ended:
    """Run the command line until it ends.

    Args:
        folder: for what it says, while it runs.
        delay: kill all processes after so many seconds.
        meanwhile: what to do while it runs.
        patience: seconds after which it is given up on.
    """
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stress.launch", "libradet.training.run", "libradet.train_options", "timm"])
    folder.mkdir(parents=True, exist_ok=True)
    logs = [str(folder / f"log-{time.monotonic_ns()}-{rank}") for rank in range(processes)]
    port = _free_port()
    environments = [_environment(rank, processes, port) if processes > 1 else {} for rank in range(processes)]
    running = [
        context.Process(target=_body, args=(args, environment, log, plan if plan and plan.rank == rank else None))
        for rank, (environment, log) in enumerate(zip(environments, logs, strict=True))
    ]
    for process in running:
        process.start()
    if delay is not None:
        running[0].join(delay)
        for process in running:
            process.kill()
    if meanwhile is not None:
        meanwhile(Running(running))
    end = time.monotonic() + patience
    for process in running:
        process.join(max(0.1, end - time.monotonic()))
    codes = [process.exitcode for process in running]
    for process in running:
        process.kill()
        process.join()
    said = "".join(Path(log).read_text(errors="replace") for log in logs if Path(log).exists())
    for log in logs:
        Path(log).unlink(missing_ok=True)
    return Ended(codes, said)


def _body(args: list[str], environment: dict[str, str], log: str, plan: Plan | None) -> None:
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
        _arm(plan)
    sys.exit(main(args))


def _arm(plan: Plan) -> None:
    """Have the signal arrive in the middle of what the plan names."""
    import torch

    from libradet.training.module import DetectorModule

    count = 0

    def after(function: Callable, act: Callable[..., None]) -> Callable:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == plan.count:
                act(*args)
            return function(*args, **kwargs)

        return wrapped

    def strike(*_: Any) -> None:
        os.kill(os.getpid(), plan.signum)

    def cut(content: Any, path: Any) -> None:
        save(content, path)
        with open(path, "r+b") as file:
            file.truncate(int(plan.share * os.path.getsize(path)))
        strike()

    save: Any = torch.save
    if plan.moment == "start":
        strike()
    elif plan.moment == "step":
        DetectorModule.training_step = after(DetectorModule.training_step, strike)
    elif plan.moment == "validation":
        DetectorModule.validation_step = after(DetectorModule.validation_step, strike)
    elif plan.moment == "write":
        torch.save = after(torch.save, cut)
    elif plan.moment == "swap":
        replace = os.replace
        between = after(lambda: None, strike)

        def swap(source: Any, target: Any) -> None:
            replace(source, target)
            if Path(target).name in ("last.ckpt", "previous.ckpt"):
                between()

        os.replace = swap
    elif plan.moment == "limit":
        size = int(1024 * plan.share)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """What a launcher such as torchrun tells a process."""
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes), "NODE_RANK": "0"}
    return world | {"RANK": str(rank), "LOCAL_RANK": str(rank)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
