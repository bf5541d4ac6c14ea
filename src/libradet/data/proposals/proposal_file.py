"""Proposal files: boxes where objects may be, found beforehand, for detectors that do not look for them themselves.

One .safetensors file for M proposals in N images, with ``format: libradet-proposals-1`` in its header:

========  ===============  ==============================================================================
ids       int64 [N]        the dataset's image ids
names     uint8 [*]        file names below the dataset's folder: a JSON list in UTF-8
sizes     int32 [N, 2]     width and height of the files in pixels
offsets   int64 [N + 1]    proposals of image i are rows ``offsets[i]`` to ``offsets[i + 1] - 1``
boxes     float32 [M, 4]   xyxy in pixels of the upright file and inside it; best first in every image
scores    float32 [M]      0..1
========  ===============  ==============================================================================

20 bytes a proposal: 2.4 GB for 118,000 images with 1000 each, of which a training maps only the boxes that
it looks at. Half precision would save half of it and move corners beyond x = 512 by up to a quarter of a
pixel, which is 3 % of IoU for an object of 16 pixels.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from numpy import ndarray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from libradet.data.proposals.pickles import Listed, read_pickle
from libradet.errors import UserError
from libradet.utils.atomic_io import atomic_write

FORMAT = "libradet-proposals-1"
_TYPES = {
    **{"ids": torch.int64, "names": torch.uint8, "sizes": torch.int32, "offsets": torch.int64},
    **{"boxes": torch.float32, "scores": torch.float32},
}


class Proposed(NamedTuple):
    """The proposals of one image: ``boxes`` xyxy in pixels of the file, best first; ``scores`` 0..1."""

    id: int
    name: str
    width: int
    height: int
    boxes: Float[ndarray, "P 4"]
    scores: Float[ndarray, " P"]


@dataclass(frozen=True, eq=False)
class ProposalFile:
    """What a proposal file holds.

    Attributes:
        path: the file.
        boxes: of all images, xyxy in pixels of their files; read from disk where they are looked at.
        scores: of all boxes; None if the file has none, and the order of boxes is all that is known.
        offsets: image i has rows ``offsets[i]`` to ``offsets[i + 1] - 1``.
        ids: image ids; None in other toolboxes' files.
        names: files; None if the images are known by their order in the annotation file alone.
        sizes: width and height of the images; None in other toolboxes' files.
    """

    path: Path
    boxes: Float[Tensor, "M 4"]
    scores: Float[Tensor, " M"] | None
    offsets: Int64[ndarray, " N1"]
    ids: Int64[ndarray, " N"] | None = None
    names: list[str] | None = None
    sizes: Int[ndarray, "N 2"] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def most(self) -> int:
        """The largest number of proposals that an image has."""
        return int(np.diff(self.offsets).max(initial=0))


def write_proposals(path: Path, images: Sequence[Proposed], made_by: str) -> None:
    """Write a proposal file; one of that name is replaced at once or not at all. ``made_by``: the model's name."""
    counts = [len(image.scores) for image in images]
    names = json.dumps([image.name for image in images], ensure_ascii=False).encode(errors="backslashreplace")
    arrays = {
        "ids": np.array([image.id for image in images], np.int64),
        "names": np.frombuffer(bytearray(names), np.uint8),
        "sizes": np.array([(image.width, image.height) for image in images], np.int32).reshape(-1, 2),
        "offsets": np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        "boxes": np.concatenate([np.zeros((0, 4)), *(p.boxes for p in images)], dtype=np.float32),
        "scores": np.concatenate([np.zeros(0), *(p.scores for p in images)], dtype=np.float32),
    }
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with atomic_write(path) as partial:
        save_file(tensors, partial, {"format": FORMAT, "model": made_by})


def read_proposals(path: str | Path) -> ProposalFile:
    """The proposals in a file of ours, or in a ``.pkl`` of mmdetection. Nothing in the file is executed.

    Raises:
        UserError: no such file, not a proposal file, or a damaged one.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return _read_own(path) if start[8:9] == b"{" else _from_images(path, read_pickle(path))


def _read_own(path: Path) -> ProposalFile:
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise UserError(
                    f"{path}: is not a proposal file; libradet predict writes them with a model that proposes"
                )
            tensors = {name: file.get_tensor(name) for name in _TYPES}
        names = json.loads(tensors["names"].numpy().tobytes())
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: the proposal file is damaged ({error})") from error
    if not _consistent(tensors, names):
        raise UserError(f"{path}: the proposal file is damaged: its parts do not fit each other")
    ids, offsets, sizes = (tensors[name].numpy() for name in ("ids", "offsets", "sizes"))
    return ProposalFile(path, tensors["boxes"], tensors["scores"], offsets, ids, names, sizes)


def _consistent(tensors: dict[str, Tensor], names: Any) -> bool:
    offsets, images, rows = tensors["offsets"], tensors["ids"].numel(), tensors["scores"].numel()
    shapes = {"ids": (images,), "sizes": (images, 2), "offsets": (images + 1,), "boxes": (rows, 4)}
    return (
        all(tensors[name].dtype == kind for name, kind in _TYPES.items())
        and all(tensors[name].shape == shape for name, shape in {**shapes, "scores": (rows,)}.items())
        and isinstance(names, list)
        and len(names) == images
        and all(isinstance(name, str) for name in names)
        and bool((offsets.diff() >= 0).all())
        and (int(offsets[0]), int(offsets[-1])) == (0, rows)
    )


def _from_images(path: Path, listed: Listed) -> ProposalFile:
    offsets = np.cumsum([0, *(len(boxes) for boxes in listed.boxes)], dtype=np.int64)
    boxes = torch.from_numpy(np.concatenate([np.zeros((0, 4), np.float32), *listed.boxes]))
    scores = None
    if listed.scores is not None:
        scores = torch.from_numpy(np.concatenate([np.zeros(0, np.float32), *listed.scores]))
    return ProposalFile(path, boxes, scores, offsets, names=listed.names)
