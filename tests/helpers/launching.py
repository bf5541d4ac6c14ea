"""The command line in processes of its own, that share the time it takes to import everything."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path

PATIENCE = 300


def run(args, environment, log):
    """Body of a process: the command line, its output in ``log``.out and ``log``.err."""
    import torch

    from libradet.cli import main

    os.environ.update(environment)
    torch.set_num_threads(1)
    for number, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(f"{log}{suffix}", os.O_WRONLY | os.O_CREAT), number)
    sys.exit(main(args))


class Launched:
    """A command line that runs, in one or several processes that train together."""

    def __init__(self, args, folder: Path, processes: int = 1) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["libradet.training.run", "libradet.training.options"])
        self._logs = [str(folder / f"{time.monotonic_ns()}-{rank}") for rank in range(processes)]
        port = _free_port()
        environments = [_environment(rank, processes, port) if processes > 1 else {} for rank in range(processes)]
        self._running = [
            context.Process(target=run, args=([str(a) for a in args], environment, log), daemon=False)
            for environment, log in zip(environments, self._logs, strict=True)
        ]
        for process in self._running:
            process.start()

    @property
    def alive(self) -> bool:
        """Whether every process still runs."""
        return all(p.is_alive() for p in self._running)

    def send(self, signum: signal.Signals, rank: int = 0) -> None:
        """Send a signal to one of the processes."""
        os.kill(self._running[rank].pid, signum)

    def wait(self) -> list[int | None]:
        """Exit codes; None where a process had to be given up on."""
        end = time.monotonic() + PATIENCE
        for process in self._running:
            process.join(max(0.0, end - time.monotonic()))
        return [p.exitcode for p in self._running]

    @property
    def said(self) -> str:
        """What all processes wrote to stderr."""
        return "".join(Path(f"{log}.err").read_text() for log in self._logs if Path(f"{log}.err").exists())

    def end(self) -> None:
        """Leave nothing behind."""
        for process in self._running:
            process.kill()
            process.join()


def _environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """What a launcher such as torchrun tells a process."""
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(happened, launched: Launched | None = None) -> None:
    """Until something is true; fails when what runs ends before."""
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        assert launched is None or launched.alive, launched.said
        time.sleep(0.005)
