"""Memory that tensors free on a CPU, kept by the process for the next tensors of their size.

glibc returns large blocks to the operating system as soon as they are freed: those above 32 MiB always, and others at
the end of the heap. The next tensor gets new pages, each of which the kernel clears when it is first written: in a
training step of Faster R-CNN at 480x640, batch 2, about 200,000 of them (docs/training.md has the time).
"""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's ``mallopt``: free bytes at the end of the heap, and bytes of a block, to be returned."""

_LARGEST_KEPT = 2**30
"""Larger blocks than a gibibyte are still returned at once."""

_KEPT_AT_THE_END = 2**31 - 1
"""The largest number that ``mallopt`` accepts."""


def keep_freed_memory() -> bool:
    """Have the process keep the memory that it frees, from now on; return whether its allocator does so.

    The peak stays about the same; between peaks, less is returned. Nothing is changed where the allocator is not
    glibc's, or where the environment sets the same parameters (``MALLOC_...``, ``GLIBC_TUNABLES``).
    """
    mallopt = None if sys.platform != "linux" else getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or _is_set_by_user():
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT_AT_THE_END))


def _is_set_by_user() -> bool:
    names = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")
    return any(name in os.environ for name in names) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
