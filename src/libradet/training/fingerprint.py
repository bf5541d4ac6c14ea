"""What a dataset was when a run began, so that it is noticed when it has changed by the time it goes on."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from libradet.data.records import Dataset, ImageRecord


def fingerprint(dataset: Dataset) -> list[int]:
    """A number below 2**63 for each image: of its file's name and size in pixels, its boxes, classes and masks.

    Not of its pixels, which would have to be read, nor of the folder, which may have moved.
    """
    return [_digest(image) for image in dataset.images]


def differing(before: Sequence[int], now: Sequence[int], dataset: Dataset) -> list[str]:
    """How two fingerprints differ, in words; ``dataset`` is what ``now`` is of."""
    if len(before) != len(now):
        return [f"it had {len(before)} images and has {len(now)}"]
    rows = np.flatnonzero(np.array(before, np.int64) != np.array(now, np.int64))
    if sorted(before) == sorted(now):
        return ["its images are in another order"] if len(rows) else []
    return [f"another name, size, boxes or classes of {dataset.images[row].path.name}" for row in rows]


def _digest(image: ImageRecord) -> int:
    content = blake2b(digest_size=8)
    content.update(f"{image.path.name}\n{image.width} {image.height} {image.upright}".encode(errors="replace"))
    for column in (image.boxes, image.labels, image.crowd):
        content.update(column.tobytes())
    for found in image.segmentations or ():
        polygons = found if isinstance(found, list) else []
        content.update(b"".join(p.tobytes() for p in polygons) if polygons else repr(found).encode(errors="replace"))
    return int.from_bytes(content.digest(), "little") >> 1
