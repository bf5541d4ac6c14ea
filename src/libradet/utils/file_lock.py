"""Locks of files that several processes may write."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from libradet.errors import UnwritableError


@contextmanager
def locked(path: Path, fix: str) -> Iterator[None]:
    """Let one process at a time write ``path``; the others wait. Missing folders are created.

    Args:
        fix: what to do where the folder cannot be written, the end of a message.

    Raises:
        UnwritableError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock")
        lock.acquire()
    except OSError as error:
        raise UnwritableError(
            f"{path.name} is not in {path.parent}, which cannot be written ({error.strerror or error}); {fix}"
        ) from error
    try:
        yield
    finally:
        lock.release()
