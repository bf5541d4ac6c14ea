"""Images decoded and resized once, and kept, in memory or in a file, for the epochs that follow."""

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

from libradet.data.loading.transforms import Size, stored_size
from libradet.data.records import Dataset
from libradet.errors import UserError

Kind = Literal["ram", "disk"]

_SHARED_MEMORY = Path("/dev/shm")


class ImageCache:
    """Pixels of a dataset's images at the size they are trained in, one copy for all workers of a process.

    It is one row of bytes: a flag for each image, then their pixels. All of it is claimed at once, so that
    it cannot run short in the middle of an epoch.

    Args:
        dataset: the images.
        size: (short, long) side, or "original".
        file: where to keep them, made anew and deleted with the cache; shared memory if None.
        zoom: by how much they may be enlarged in training (``Augmentation.zoom``), which takes more room.

    Raises:
        UserError: there is no room.
    """

    def __init__(self, dataset: Dataset, size: Size, file: Path | None = None, zoom: float | None = None) -> None:
        self.shapes = [stored_size(p.height, p.width, size, zoom) for p in dataset.images]
        self.starts = np.cumsum([len(self.shapes), *(3 * height * width for height, width in self.shapes)]).tolist()
        self.file = file
        check_room("disk" if file else "ram", self.starts[-1], file.parent if file else None)
        if file is None:
            self._bytes: Tensor | None = torch.zeros(self.starts[-1], dtype=torch.uint8).share_memory_()
            return
        self._bytes = None
        _claim(file, self.starts[-1])
        weakref.finalize(self, _delete, file, os.getpid())

    def __getstate__(self) -> dict[str, Any]:
        # A process that is not a fork of this one maps the file for itself.
        return vars(self) | {"_bytes": None if self.file else self._bytes}

    def get(self, index: int) -> UInt8[Tensor, "3 H W"] | None:
        """The image, which must not be written to; None if it has not been put here yet."""
        return self._view(index) if self._memory[index] else None

    def put(self, index: int, image: UInt8[Tensor, "3 H W"]) -> None:
        """Keep an image."""
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


def cache_bytes(datasets: Sequence[Dataset], size: Size, zoom: float | None = None) -> int:
    """What the images of some datasets take in a cache."""
    shapes = (stored_size(p.height, p.width, size, zoom) for dataset in datasets for p in dataset.images)
    return sum(3 * height * width + 1 for height, width in shapes)


def check_room(kind: Kind, needed: int, folder: Path | None = None) -> None:
    """Refuse a cache for which there is no room in ``folder`` ("disk"; it need not exist yet) or in shared memory.

    Raises:
        UserError: says how much there is.
    """
    place = _SHARED_MEMORY if kind == "ram" else _existing(folder or Path())
    if not place.exists():  # not a Linux: nobody tells how much shared memory there is
        return
    free = shutil.disk_usage(place).free
    if needed > free:
        other = "--cache disk" if kind == "ram" else "an --out on another disk"
        raise UserError(
            f"--cache {kind} takes {in_words(needed)}, {place} has {in_words(free)} left: "
            f"free some, take {other}, smaller images, or no cache"
        )


def in_words(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def _claim(file: Path, count: int) -> None:
    try:
        with open(file, "wb") as opened:
            opened.truncate(count)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(opened.fileno(), 0, count)
    except OSError as error:
        raise UserError(f"{file}: no room for {in_words(count)} of images ({error.strerror}).") from None


def _delete(file: Path, owner: int) -> None:
    if os.getpid() == owner:
        file.unlink(missing_ok=True)
