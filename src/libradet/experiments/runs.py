"""Training runs that are done once: each is a process of ``libradet train``, in a folder of its own."""

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import yaml

from libradet.errors import UserError
from libradet.experiments.presets import nested
from libradet.utils.atomic_io import atomic_write, write_json

RESULT, LOG, REQUEST = "result.json", "log.txt", "request.yaml"
BEST, CONFIG, METRICS = "best.safetensors", "config.yaml", "metrics.json"
"""Files of a run folder, as :mod:`libradet.training` names them; here nothing of torch is loaded."""


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
        settings: all of them, by dotted key of ``libradet train``, but for where the run goes.
        propose: whether the model's proposals for the whole dataset are written when it is trained.
    """

    root: Path
    settings: tuple[tuple[str, Any], ...]
    propose: bool = False

    @property
    def folder(self) -> Path:
        """Named by what is in it: rows of several tables that ask for the same share it."""
        known = dict(self.settings)
        told = json.dumps(known, sort_keys=True, ensure_ascii=False)
        digest = hashlib.sha256(told.encode()).hexdigest()[:10]
        return self.root / f"{known['model']}-{digest}-seed{known['seed']}"

    @property
    def proposals(self) -> Path:
        """Where its proposals lie."""
        return self.folder / "proposals"

    @property
    def result(self) -> dict[str, Any] | None:
        """``metrics`` and ``seconds``, or ``failure``; None if it is not finished."""
        try:
            return json.loads((self.folder / RESULT).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as e:
            raise UserError(f"{self.folder / RESULT}: cannot be read ({e}); delete it to have it made anew") from e


def make_run(root: Path, settings: dict[str, Any], seed: int, propose: bool = False) -> Run:
    """The run of these settings."""
    return Run(root, tuple(sorted((settings | {"seed": seed}).items())), propose)


class Workshop:
    """Carries out runs, several at a time.

    Args:
        threads: of each process; None leaves it to torch.
    """

    def __init__(self, threads: int | None) -> None:
        self.threads = threads
        self._processes: set[subprocess.Popen] = set()
        self._lock, self._closed = Lock(), False

    def carry_out(self, run: Run) -> dict[str, Any]:
        """Train, unless that is done; go on where an earlier attempt was stopped.

        Returns:
            what :attr:`Run.result` says. A run whose loss is not finite any more has failed, and is not tried again.

        Raises:
            UserError: the run could not be started, or was ended by somebody else.
        """
        if (known := run.result) is not None:
            return known
        run.folder.mkdir(parents=True, exist_ok=True)
        with _alone(run.folder) as lock:
            if (known := run.result) is not None:
                return known
            began = time.monotonic()
            code = self._call([*_train(run), "--out", str(run.folder)] if not _begun(run) else _resume(run), run, lock)
            if code == 0 and run.propose:
                words = ["predict", str(run.folder / BEST), "--data", dict(run.settings)["data"]]
                code = self._call([*words, "--out", str(run.proposals)], run, lock)
            result = _outcome(run, code, time.monotonic() - began)
            write_json(run.folder / RESULT, result, indent=1)
            return result

    def close(self) -> None:
        """Have all processes save and stop, and wait for that."""
        with self._lock:
            self._closed = True
            waiting = list(self._processes)
        for process in waiting:
            process.terminate()  # not SIGINT: what a script starts in the background ignores that until it trains
        for process in waiting:
            process.wait()

    def _call(self, words: Sequence[str], run: Run, lock: int) -> int:
        environment = dict(os.environ)
        if self.threads is not None:
            environment |= {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        with (run.folder / LOG).open("ab") as log, self._lock:
            if self._closed:
                return -signal.SIGTERM
            # In a session of its own Ctrl-C does not reach it twice; holding the lock, it is not doubled if we die.
            process = subprocess.Popen(
                [sys.executable, "-m", "libradet", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                pass_fds=[lock],
            )
            self._processes.add(process)
        code = process.wait()
        with self._lock:
            self._processes.discard(process)
        return code


def _begun(run: Run) -> bool:
    return (run.folder / CONFIG).exists()


def _train(run: Run) -> list[str]:
    with atomic_write(run.folder / REQUEST) as partial:
        partial.write_text(yaml.safe_dump(nested(dict(run.settings)), allow_unicode=True, sort_keys=False))
    return ["train", "--config", str(run.folder / REQUEST)]


def _resume(run: Run) -> list[str]:
    return ["train", "--resume", str(run.folder)]


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Waits until no other process works in the folder, such as one that was left behind when its parent was killed."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _outcome(run: Run, code: int, seconds: float) -> dict[str, Any]:
    last = _last_words(run)
    if code == 0:
        metrics = json.loads((run.folder / METRICS).read_text(encoding="utf-8"))
        return {"metrics": metrics, "seconds": round(seconds, 1), "settings": dict(run.settings)}
    if "not finite" in last:
        return {"failure": last, "seconds": round(seconds, 1), "settings": dict(run.settings)}
    if code in (-signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM):
        raise UserError(f"{run.folder}: stopped; the same command again goes on")
    raise UserError(f"{run.folder}: libradet train ended with code {code}: {last or 'nothing said'}")


def _last_words(run: Run) -> str:
    """The error that the run ended with, out of its log."""
    lines = (run.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line for line in lines if line.startswith("libradet: ")]
    return said[-1].removeprefix("libradet: ").removeprefix("error: ") if said else " ".join(lines[-1:])
