"""Cache of decoded and resized images, in shared memory or in a file."""

import os
import shutil
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from libradet.data.records import Dataset
from libradet.data.transforms.resize import Size, cached_size
from libradet.errors import UserError

CacheKind = Literal["ram", "disk"]

_SHARED_MEMORY = Path("/dev/shm")


class ImageCache:
    """Pixels of a dataset's images at their training size, one copy for all workers of a process.

    The cache is one array of bytes: a flag for each image, then their pixels. It is allocated as a whole, so that
    space cannot run out in the middle of an epoch.

    Args:
        dataset: the images.
        size: (short, long) side, or "original".
        file: where to keep them, overwritten, and deleted with the cache; shared memory if None.
        max_scale: largest factor of scale jitter (``Augmentation.max_scale``), which needs more space.

    Raises:
        UserError: there is not enough space.
    """

    def __init__(self, dataset: Dataset, size: Size, file: Path | None = None, max_scale: float | None = None) -> None:
        self.shapes = [cached_size(p.height, p.width, size, max_scale) for p in dataset.images]
        self.starts = np.cumsum([len(self.shapes), *(3 * height * width for height, width in self.shapes)]).tolist()
        self.file = file
        check_free_space("disk" if file else "ram", self.starts[-1], file.parent if file else None)
        if file is None:
            self._bytes: Tensor | None = torch.zeros(self.starts[-1], dtype=torch.uint8).share_memory_()
            return
        self._bytes = None
        _allocate(file, self.starts[-1])
        weakref.finalize(self, _delete, file, os.getpid())

    def __getstate__(self) -> dict[str, Any]:
        # A process that is not a fork of this one maps the file itself.
        return vars(self) | {"_bytes": None if self.file else self._bytes}

    def get(self, index: int) -> UInt8[Tensor, "3 H W"] | None:
        """Return the image, which must not be modified; None if it is not cached yet."""
        return self._view(index) if self._memory[index] else None

    def put(self, index: int, image: UInt8[Tensor, "3 H W"]) -> None:
        """Store an image."""
        self._view(index).copy_(image)
        self._memory[index] = 1

    def _view(self, index: int) -> UInt8[Tensor, "3 H W"]:
        pixels = self._memory[self.starts[index] : self.starts[index + 1]]
        return pixels.view(*self.shapes[index], 3).permute(2, 0, 1)

    @property
    def _memory(self) -> UInt8[Tensor, " N"]:
        if self._bytes is None:
            self._bytes = torch.from_file(str(self.file), shared=True, size=self.starts[-1], dtype=torch.uint8)
        return self._bytes


def cache_bytes(datasets: Sequence[Dataset], size: Size, max_scale: float | None = None) -> int:
    """Return the size in bytes of a cache of some datasets."""
    shapes = (cached_size(p.height, p.width, size, max_scale) for dataset in datasets for p in dataset.images)
    return sum(3 * height * width + 1 for height, width in shapes)


def check_free_space(kind: CacheKind, needed: int, folder: Path | None = None) -> None:
    """Check that a cache fits into ``folder`` ("disk"; it need not exist yet) or into shared memory.

    Raises:
        UserError: it does not fit; the message names the free space.
    """
    location = _SHARED_MEMORY if kind == "ram" else _existing(folder or Path())
    if not location.exists():  # not Linux: the size of shared memory is unknown
        return
    free = shutil.disk_usage(location).free
    if needed > free:
        alternative = "use --cache disk" if kind == "ram" else "choose an --output_dir on another disk"
        raise UserError(
            f"--cache {kind} needs {format_bytes(needed)}, {location} has {format_bytes(free)} free: "
            f"free some space, {alternative}, or use smaller images or no cache"
        )


def format_bytes(count: int) -> str:
    """Return a number of bytes in MB or GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _allocate(file: Path, count: int) -> None:
    try:
        with open(file, "wb") as opened:
            opened.truncate(count)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(opened.fileno(), 0, count)
    except OSError as error:
        raise UserError(
            f"{file}: cannot allocate {format_bytes(count)} for the image cache ({error.strerror}); free some space"
        ) from None


def _delete(file: Path, owner: int) -> None:
    if os.getpid() == owner:
        file.unlink(missing_ok=True)
