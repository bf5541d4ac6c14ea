"""Proposal files: precomputed boxes for detectors without an RPN.

One .safetensors file for M proposals in N images, with ``format: libradet-proposals-1`` in its header:

========  ===============  ==============================================================================
ids       int64 [N]        the dataset's image ids
names     uint8 [.]        file names below the dataset's folder: a JSON list in UTF-8
sizes     int32 [N, 2]     width and height of the files in pixels
offsets   int64 [N + 1]    proposals of image i are rows ``offsets[i]`` to ``offsets[i + 1] - 1``
boxes     float32 [M, 4]   xyxy in pixels of the upright file and inside it; best first in every image
scores    float32 [M]      0..1
========  ===============  ==============================================================================

A proposal needs 20 bytes: 2.4 GB for 118,000 images with 1000 each, of which training maps only the boxes that
it uses. Half precision would save half of it and move corners beyond x = 512 by up to a quarter of a
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

from libradet.data.proposals.mmdetection import ProposalLists, read_pickle
from libradet.errors import UserError
from libradet.utils.atomic_io import atomic_write

FORMAT = "libradet-proposals-1"
_DTYPES = {
    "ids": torch.int64,
    "names": torch.uint8,
    "sizes": torch.int32,
    "offsets": torch.int64,
    "boxes": torch.float32,
    "scores": torch.float32,
}


class ImageProposals(NamedTuple):
    """The proposals of one image: ``boxes`` xyxy in pixels of the file, best first; ``scores`` 0..1."""

    id: int | str
    name: str
    width: int
    height: int
    boxes: Float[ndarray, "P 4"]
    scores: Float[ndarray, " P"]


@dataclass(frozen=True, eq=False)
class ProposalFile:
    """Content of a proposal file.

    Attributes:
        path: the file.
        boxes: of all images, xyxy in pixels of their files; read from disk on access.
        scores: of all boxes; None if the file has none, and boxes are only ordered.
        offsets: image i has rows ``offsets[i]`` to ``offsets[i + 1] - 1``.
        ids: image ids; None in other toolboxes' files.
        names: file names; None if images are known only by their order in the annotation file.
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
    def max_per_image(self) -> int:
        """Largest number of proposals of an image."""
        return int(np.diff(self.offsets).max(initial=0))


def write_proposals(path: Path, images: Sequence[ImageProposals], model_name: str) -> None:
    """Write a proposal file, atomically, with the name of the model that computed it."""
    counts = [len(image.scores) for image in images]
    names = json.dumps([image.name for image in images], ensure_ascii=False).encode(errors="backslashreplace")
    arrays = {
        "ids": _numeric_ids([image.id for image in images]),
        "names": np.frombuffer(bytearray(names), np.uint8),
        "sizes": np.array([(image.width, image.height) for image in images], np.int32).reshape(-1, 2),
        "offsets": np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        "boxes": np.concatenate([np.zeros((0, 4)), *(image.boxes for image in images)], dtype=np.float32),
        "scores": np.concatenate([np.zeros(0), *(image.scores for image in images)], dtype=np.float32),
    }
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with atomic_write(path) as partial:
        save_file(tensors, partial, {"format": FORMAT, "model": model_name})


def _numeric_ids(ids: Sequence[int | str]) -> Int64[ndarray, " N"]:
    """Return ids as int64, numbered from 1 if one is text or exceeds it: images are then matched by name."""
    exact = all(isinstance(i, int) and abs(i) < 2**63 for i in ids)
    return np.array(ids if exact else range(1, len(ids) + 1), np.int64)


def read_proposals(path: str | Path) -> ProposalFile:
    """Read a proposal file of libradet, or a ``.pkl`` of mmdetection. No code in the file is executed.

    Raises:
        UserError: no such file, not a proposal file, or a damaged one.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    return _read_safetensors(path) if start[8:9] == b"{" else _from_lists(path, read_pickle(path))


def _read_safetensors(path: Path) -> ProposalFile:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise UserError(
                    f"{path}: is not a proposal file; libradet predict writes one with a proposal model, such as rpn"
                )
            tensors = {name: file.get_tensor(name) for name in _DTYPES}
        names = json.loads(tensors["names"].numpy().tobytes())
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: the proposal file is damaged ({error}); write it again") from error
    if not _is_consistent(tensors, names):
        raise UserError(f"{path}: the proposal file is damaged: its tensors are inconsistent; write it again")
    ids, offsets, sizes = (tensors[name].numpy() for name in ("ids", "offsets", "sizes"))
    return ProposalFile(path, tensors["boxes"], tensors["scores"], offsets, ids, names, sizes)


def _is_consistent(tensors: dict[str, Tensor], names: Any) -> bool:
    offsets, num_images, rows = tensors["offsets"], tensors["ids"].numel(), tensors["scores"].numel()
    shapes = {
        "ids": (num_images,),
        "sizes": (num_images, 2),
        "offsets": (num_images + 1,),
        "boxes": (rows, 4),
        "scores": (rows,),
    }
    return (
        all(tensors[name].dtype == dtype for name, dtype in _DTYPES.items())
        and all(tensors[name].shape == shape for name, shape in shapes.items())
        and isinstance(names, list)
        and len(names) == num_images
        and all(isinstance(name, str) for name in names)
        and bool((offsets.diff() >= 0).all())
        and (int(offsets[0]), int(offsets[-1])) == (0, rows)
    )


def _from_lists(path: Path, lists: ProposalLists) -> ProposalFile:
    offsets = np.cumsum([0, *(len(boxes) for boxes in lists.boxes)], dtype=np.int64)
    boxes = torch.from_numpy(np.concatenate([np.zeros((0, 4), np.float32), *lists.boxes]))
    scores = None
    if lists.scores is not None:
        scores = torch.from_numpy(np.concatenate([np.zeros(0, np.float32), *lists.scores]))
    return ProposalFile(path, boxes, scores, offsets, names=lists.names)
