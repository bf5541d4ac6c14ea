"""Fuzz all file readers: annotations, labels, proposals, models, checkpoints, configurations, images.

Each attempt generates a file or dataset from a grammar, damages most of them, and reads it. Expected: it is read, or
UserError is raised. A fault is any other exception, more than 10 s, more than 4 GiB, a crash, executed code, or a
record that is neither read nor counted as skipped.
"""

import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

# Before torch is imported: the worker is a fork, which has no other threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from libradet.errors import UserError
from stress import fuzz_images, fuzz_records, fuzz_tensors, fuzz_tools
from stress.common import AttemptLog
from stress.worker import Worker

KINDS = {
    "coco": (fuzz_records.coco, 20),
    "yolo": (fuzz_records.yolo, 10),
    "voc": (fuzz_records.voc, 10),
    "tools": (fuzz_tools.tools, 8),
    "config": (fuzz_records.config, 4),
    "proposals": (fuzz_tensors.proposals, 10),
    "safetensors": (fuzz_tensors.safetensors, 7),
    "pth": (fuzz_tensors.checkpoint, 9),
    "pkl": (fuzz_tensors.pickled, 8),
    "image": (fuzz_images.image, 14),
}
"""Generators with their share in percent."""


def main() -> int:
    """Run the stress test."""
    warnings.simplefilter("ignore")
    attempts = AttemptLog("files", __doc__, short=2000, long=100_000)
    names, shares = list(KINDS), [share for _, share in KINDS.values()]

    def kind(number: int) -> str:
        return str(attempts.rng(number).choice(names, p=[share / 100 for share in shares]))

    with tempfile.TemporaryDirectory(prefix="stress-files-") as scratch:
        base = Path(scratch, "base")
        base.mkdir()
        fuzz_records.prepare(base)
        fuzz_tensors.prepare(base)

        def do(number: int) -> tuple[str, str | None]:
            return attempt(attempts, number, kind(number), base, Path(scratch, "current"))

        worker = Worker(do, kind)
        for number in attempts.pending():
            attempts.record(number, *worker.attempt(number))
        worker.end()
    return attempts.finish(slowest_seconds=round(worker.slowest, 1), most_MiB=round(worker.largest))


def attempt(attempts: AttemptLog, number: int, kind: str, base: Path, folder: Path) -> tuple[str, str | None]:
    """Generate and read one file; return its kind and what went wrong."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    canary = folder / "canary"
    rng = attempts.rng(number)
    rng.random()
    try:
        fault = KINDS[kind][0](rng, base, folder, canary)
    except UserError as error:
        fault = _check_message(error)
    if canary.exists():
        fault = "executed code of the file"
    return kind, fault


def _check_message(error: UserError) -> str | None:
    message = str(error)
    if not message.strip() or len(message) > 20_000:
        return f"a message of {len(message)} characters: {message[:100]}"
    return None


if __name__ == "__main__":
    sys.exit(main())
