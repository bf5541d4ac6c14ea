"""Fuzz everything that is read: records, labels, proposals, models, checkpoints, configurations, images.

Each attempt writes a file or a dataset by grammar, mostly damages it, and reads it. Right is: read, or UserError.
Wrong is any other exception, more than 10 s, more than 4 GiB, a crash, a program that was run, and a record that is
neither read nor counted as left out.
"""

import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

# Before torch is loaded: the worker is a fork, which has no other threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from libradet.errors import UserError
from stress import fuzz_images, fuzz_records, fuzz_tensors
from stress.common import Book
from stress.worker import Worker

KINDS = {
    "coco": (fuzz_records.coco, 24),
    "yolo": (fuzz_records.yolo, 12),
    "voc": (fuzz_records.voc, 12),
    "config": (fuzz_records.config, 4),
    "proposals": (fuzz_tensors.proposals, 10),
    "safetensors": (fuzz_tensors.safetensors, 7),
    "pth": (fuzz_tensors.checkpoint, 9),
    "pkl": (fuzz_tensors.pickled, 8),
    "image": (fuzz_images.image, 14),
}
"""Each with its share of a hundred."""


def main() -> int:
    """The campaign."""
    warnings.simplefilter("ignore")
    book = Book("files", __doc__, short=2000, long=100_000)
    names, shares = list(KINDS), [share for _, share in KINDS.values()]

    def kind(number: int) -> str:
        return str(book.chance(number).choice(names, p=[share / 100 for share in shares]))

    with tempfile.TemporaryDirectory(prefix="stress-files-") as scratch:
        base = Path(scratch, "base")
        base.mkdir()
        fuzz_records.prepare(base)
        fuzz_tensors.prepare(base)

        def do(number: int) -> tuple[str, str | None]:
            return attempt(book, number, kind(number), base, Path(scratch, "now"))

        worker = Worker(do, kind)
        for number in book.todo():
            book.note(number, *worker.attempt(number))
        worker.end()
    return book.close(slowest_seconds=round(worker.slowest, 1), most_MiB=round(worker.largest))


def attempt(book: Book, number: int, kind: str, base: Path, folder: Path) -> tuple[str, str | None]:
    """Write, read, look for traces."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    canary = folder / "canary"
    chance = book.chance(number)
    chance.random()
    try:
        fault = KINDS[kind][0](chance, base, folder, canary)
    except UserError as error:
        fault = _judge(error)
    if canary.exists():
        fault = "ran a program of the file"
    return kind, fault


def _judge(error: UserError) -> str | None:
    message = str(error)
    if not message.strip() or len(message) > 20_000:
        return f"a message of {len(message)} letters: {message[:100]}"
    return None


if __name__ == "__main__":
    sys.exit(main())
