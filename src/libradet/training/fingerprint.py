"""What a data set was when a run began, so that it is noticed when it has changed by the time it goes on."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from libradet.data.records import Dataset, Picture


def fingerprint(dataset: Dataset) -> list[int]:
    """A number below 2**63 for each picture: of its file's name and size in pixels, its boxes, classes and masks.

    Not of its pixels, which would have to be read, nor of the folder, which may have moved.
    """
    return [_digest(picture) for picture in dataset.pictures]


def differing(before: Sequence[int], now: Sequence[int], dataset: Dataset) -> list[str]:
    """How two fingerprints differ, in words; ``dataset`` is what ``now`` is of."""
    if len(before) != len(now):
        return [f"it had {len(before)} pictures and has {len(now)}"]
    rows = np.flatnonzero(np.array(before, np.int64) != np.array(now, np.int64))
    if sorted(before) == sorted(now):
        return ["its pictures are in another order"] if len(rows) else []
    return [f"another name, size, boxes or classes of {dataset.pictures[row].path.name}" for row in rows]


def _digest(picture: Picture) -> int:
    content = blake2b(digest_size=8)
    content.update(f"{picture.path.name}\n{picture.width} {picture.height} {picture.upright}".encode(errors="replace"))
    for column in (picture.boxes, picture.labels, picture.crowd):
        content.update(column.tobytes())
    for found in picture.segmentations or ():
        polygons = found if isinstance(found, list) else []
        content.update(b"".join(p.tobytes() for p in polygons) if polygons else repr(found).encode(errors="replace"))
    return int.from_bytes(content.digest(), "little") >> 1
