"""Training runs that are executed once: each is a process of ``libradet train`` with its own folder."""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import yaml

from libradet.errors import UserError
from libradet.evaluation.curves import read_metrics
from libradet.experiments.definitions import nest
from libradet.training.run_files import BEST_METRICS, BEST_MODEL, CONFIG, METRICS_CSV
from libradet.utils.atomic_io import atomic_write, write_json

RESULT, LOG, REQUEST, INPUTS = "result.json", "log.txt", "request.yaml", "inputs.json"
"""Files in a run folder beyond those of :mod:`libradet.training.run_files`."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class InputDigests:
    """Digests of what a run reads; an empty one is not compared.

    Attributes:
        data: of names and sizes in pixels of images, and of annotations, of both splits.
        files: of the sizes in bytes of image files, and of class names.
        weights: of the content of the file that backbones start from.
    """

    data: str = ""
    files: str = ""
    weights: str = ""

    def by_key(self) -> dict[str, str]:
        """Return the digests as they are in a result."""
        return {f"{name}_digest": digest for name, digest in asdict(self).items()}


NOT_COMPARED = InputDigests()


@dataclass(frozen=True)
class TrainingRun:
    """A training run, identified by its settings.

    Attributes:
        settings: all settings of ``libradet train`` by dotted key, except the output folder.
        writes_proposals: whether the trained model's proposals for the whole dataset are written.
        digests: of dataset and weights.
    """

    root: Path
    settings: tuple[tuple[str, Any], ...]
    writes_proposals: bool = False
    digests: InputDigests = NOT_COMPARED

    @property
    def folder(self) -> Path:
        """Folder named by a hash of the settings: rows of several tables with equal settings share it."""
        settings = dict(self.settings)
        text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        return self.root / f"{settings['model']}-{digest}-seed{settings['seed']}"

    @property
    def proposals(self) -> Path:
        """Folder of its proposals."""
        return self.folder / "proposals"

    @property
    def result(self) -> dict[str, Any] | None:
        """``metrics`` and ``seconds``, or ``failure``; None if the run is not finished.

        Raises:
            UserError: it cannot be read, or dataset or weights have changed since the start of the run.
        """
        result = self._read_json(RESULT)
        has_started = (self.folder / CONFIG).exists()
        self._check_inputs(result or (self._read_json(INPUTS) if has_started else None) or {})
        return result

    def _read_json(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as e:
            raise UserError(f"{path}: cannot be read ({e}); delete it to repeat the run") from e

    def _check_inputs(self, result: dict[str, Any]) -> None:
        settings = dict(self.settings)
        images = f"images or annotations of {settings['data']}"
        changeable = {"data": images, "files": images, "weights": f"the contents of {settings.get('weights')}"}
        for (key, digest), inputs in zip(self.digests.by_key().items(), changeable.values(), strict=True):
            # Results of an earlier version have not all digests.
            if digest and result.get(key, digest) not in ("", digest):
                raise UserError(
                    f"{self.folder}: {inputs} have changed since this run, so it cannot be compared with new ones; "
                    "name another --output_dir, or delete the run"
                )

    @property
    def lacks_proposals(self) -> bool:
        """Whether proposals of a split are still to be written.

        A table that needs none may have finished the same run, and an older version wrote one split after the other.
        """
        if not self.writes_proposals:
            return False
        from libradet.data.read import splits  # imports torch

        files = [self.proposals / f"{split}.safetensors" for split in splits(dict(self.settings)["data"])]
        return not all(file.is_file() for file in files)


def make_run(
    root: Path,
    settings: dict[str, Any],
    seed: int,
    writes_proposals: bool = False,
    digests: InputDigests = NOT_COMPARED,
) -> TrainingRun:
    """Return the run with these settings and this seed."""
    return TrainingRun(root, tuple(sorted((settings | {"seed": seed}).items())), writes_proposals, digests)


class Launcher:
    """Launches training processes; several threads may call :meth:`execute` at a time.

    Args:
        threads: CPU threads of each process; None leaves them to torch.
    """

    def __init__(self, threads: int | None) -> None:
        self.threads = threads
        self._processes: set[subprocess.Popen] = set()
        self._lock, self._closed = Lock(), False

    def execute(self, run: TrainingRun) -> dict[str, Any]:
        """Train unless the run is finished; an interrupted run is resumed.

        Returns:
            :attr:`TrainingRun.result`. A run whose loss became NaN or infinite has failed and is not repeated.

        Raises:
            UserError: the process failed to start, or was terminated from outside.
        """
        if (result := run.result) is not None and not run.lacks_proposals:
            return result
        run.folder.mkdir(parents=True, exist_ok=True)
        with _folder_lock(run.folder) as lock:
            result = run.result or self._train(run, lock)
            if "metrics" in result and run.lacks_proposals:
                self._write_proposals(run, lock)
            return result

    def close(self) -> None:
        """Make all processes save a checkpoint and stop, and wait for them."""
        with self._lock:
            self._closed = True
            running = list(self._processes)
        for process in running:
            process.terminate()  # SIGINT is ignored by background processes of a shell script until training starts
        for process in running:
            process.wait()

    def _train(self, run: TrainingRun, lock: int) -> dict[str, Any]:
        start = time.monotonic()
        code = self._call(_train_arguments(run), run, lock)
        result = _read_outcome(run, code, time.monotonic() - start)
        write_json(run.folder / RESULT, result, indent=1)
        return result

    def _write_proposals(self, run: TrainingRun, lock: int) -> None:
        """Write the proposals for the whole dataset; their folder gets its name when they are complete."""
        partial = run.proposals.with_suffix(".partial")
        data = dict(run.settings)["data"]
        model = str(run.folder / BEST_MODEL)
        code = self._call(["predict", model, "--data", data, "--output_dir", str(partial)], run, lock)
        if code:
            raise _process_error(run, code, "predict")
        shutil.rmtree(run.proposals, ignore_errors=True)
        partial.rename(run.proposals)

    def _call(self, arguments: Sequence[str], run: TrainingRun, lock: int) -> int:
        environment = dict(os.environ)
        if self.threads is not None:
            environment |= dict.fromkeys(THREAD_VARIABLES, str(self.threads))
        with (run.folder / LOG).open("ab") as log, self._lock:
            if self._closed:
                return -signal.SIGTERM
            # In its own session the process gets Ctrl-C once, not twice. It inherits the lock, so that it is not
            # started a second time if this process is killed.
            process = subprocess.Popen(
                [sys.executable, "-m", "libradet", *arguments],
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


def _train_arguments(run: TrainingRun) -> list[str]:
    """Return the arguments that start the run, or resume it if it has started."""
    if (run.folder / CONFIG).exists():
        return ["train", "--resume", str(run.folder)]
    write_json(run.folder / INPUTS, run.digests.by_key(), indent=1)
    request = run.folder / REQUEST
    with atomic_write(request) as partial:
        partial.write_text(yaml.safe_dump(nest(dict(run.settings)), allow_unicode=True, sort_keys=False))
    return ["train", "--config", str(request), "--output_dir", str(run.folder)]


@contextmanager
def _folder_lock(folder: Path) -> Iterator[int]:
    """Wait until no other process uses the folder, such as one whose parent was killed; yield the lock's descriptor."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _read_outcome(run: TrainingRun, code: int, seconds: float) -> dict[str, Any]:
    common = {"seconds": round(seconds, 1), "settings": dict(run.settings), **run.digests.by_key()}
    if code == 0:
        metrics = json.loads((run.folder / BEST_METRICS).read_text(encoding="utf-8"))
        return {"metrics": metrics | _metrics_by_validation(run, metrics), **common}
    error = _last_error(run)
    if "not finite" in error:
        return {"failure": error, **common}
    raise _process_error(run, code, "train")


def _process_error(run: TrainingRun, code: int, command: str) -> UserError:
    if code in (-signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM):
        return UserError(f"{run.folder}: stopped; run the same command again to resume")
    return UserError(f"{run.folder}: libradet {command} exited with code {code}: {_last_error(run) or 'no output'}")


def _metrics_by_validation(run: TrainingRun, names: Iterable[str]) -> dict[str, float]:
    """Return ``AP@1``, ``AP50@1``, ..., ``AP@2``, ...: the metrics of each validation of a run."""
    columns = read_metrics(run.folder / METRICS_CSV)
    return {
        f"{name}@{number}": float(value)
        for name in names
        if name in columns
        for number, value in enumerate(columns[name].values, start=1)
    }


def _last_error(run: TrainingRun) -> str:
    """Return the error at the end of the run's log."""
    lines = (run.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("libradet: ")]
    return errors[-1].removeprefix("libradet: ").removeprefix("error: ") if errors else " ".join(lines[-1:])
