"""Translate errors of the machine during a run (disk, memory, lost processes) into one-line messages."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from libradet.errors import UserError

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""Errors of a disk that a user can resolve."""

_CONNECTION_LOST = re.compile(
    r"Connection closed by peer|Connection reset by peer|Broken pipe|Connection refused|Socket closed|"
    r"remote process exited|failed to connect|Timed out waiting|recvValue failed|Connection was likely closed",
    re.IGNORECASE,
)
_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|Cannot allocate memory", re.IGNORECASE
)


@contextmanager
def translate_errors(folder: Path, world_size: int) -> Iterator[None]:
    """Replace errors that are not faults of the program by a UserError with the command that resumes the run.

    Args:
        folder: of the run.
        world_size: number of processes that train together.

    Raises:
        UserError: in place of errors of disk, memory, data loading processes, and other processes of the run.
    """
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as e:
        description = _describe_error(e, world_size)
        if description is None:
            raise
        raise UserError(f"{description}; then resume with: libradet train --resume {folder}") from e


def _describe_error(error: Exception, world_size: int) -> str | None:
    text = str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or _OUT_OF_MEMORY.search(text):
        return "not enough memory for this run: stop other programs, or start a new run with a smaller --batch_size"
    if "DataLoader worker" in text:
        return (
            "a process that loads images was killed, often because memory ran out "
            f"({text.splitlines()[0]}): use fewer --num_workers or free some memory"
        )
    if world_size > 1 and _CONNECTION_LOST.search(text):
        return "another process of this run has ended: check its last output"
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        prefix = f"{error.filename}: " if error.filename else ""
        return f"{prefix}cannot be written ({error.strerror}): free disk space or change the permissions"
    return None
