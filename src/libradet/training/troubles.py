"""What a machine does to a run, in words: no room, no memory, processes that are gone."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from libradet.errors import UserError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""Errors of a disk that people can do something about."""

_GONE = re.compile(
    r"Connection closed by peer|Connection reset by peer|Broken pipe|Connection refused|Socket closed|"
    r"remote process exited|failed to connect|Timed out waiting|recvValue failed|Connection was likely closed",
    re.IGNORECASE,
)
_NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory|Cannot allocate memory", re.IGNORECASE)


@contextmanager
def told(folder: Path, processes: int) -> Iterator[None]:
    """Turns what is no fault of the program, and ends a run, into a line that says how to go on.

    Args:
        folder: of the run.
        processes: that train together.

    Raises:
        UserError: in place of errors of disk, memory, loading processes, and other processes of the run.
    """
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as e:
        words = _in_words(e, processes)
        if words is None:
            raise
        raise UserError(f"{words}; then continue with: libradet train --resume {folder}") from e


def _in_words(error: Exception, processes: int) -> str | None:
    text = str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or _NO_MEMORY.search(text):
        return "there is not enough memory for this run: end other programs, or start anew with a smaller --batch_size"
    if "DataLoader worker" in text:
        return (
            "a process that loads images was ended from outside, often for want of memory "
            f"({text.splitlines()[0]}): take fewer --workers or free some memory"
        )
    if processes > 1 and _GONE.search(text):
        return "another process of this run has ended: look at what it said last"
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        named = f"{error.filename}: " if error.filename else ""
        return f"{named}cannot be written ({error.strerror}): make room or allow it"
    return None
