"""Precomputed proposals, matched to the images of a dataset or to image files."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

from libradet.data.formats.reading import standard_split
from libradet.data.image_headers import MISSING, read_header
from libradet.data.proposals.proposal_file import ProposalFile, read_proposals
from libradet.data.records import Dataset
from libradet.errors import UserError
from libradet.utils.text import counted, summarize_list

PROPOSAL_SUFFIXES = (".safetensors", ".pkl", ".pickle")

NO_ROW = -1
"""Row of an image file that cannot be read and has no proposals."""

MAX_OVERHANG = 2.0
"""Pixels by which boxes of a file without image sizes may exceed their image."""


@dataclass(frozen=True, eq=False)
class PrecomputedProposals:
    """The proposals of some images.

    Attributes:
        file: contains them.
        rows: of each image, in the file; NO_ROW for a file that cannot be read.
        num_proposals: maximum per image, and the number to which they are padded.
    """

    file: ProposalFile
    rows: Int64[ndarray, " N"]
    num_proposals: int

    def boxes_of(self, index: int, width: int, height: int) -> Float[Tensor, "P 4"]:
        """Return the best ``num_proposals`` proposals of an image, best first, xyxy in pixels of its file.

        Args:
            index: of the image.
            width, height: of the file, in pixels.

        Raises:
            UserError: a box is not finite, or was computed in an image of another size.
        """
        file, row = self.file, int(self.rows[index])
        assert row != NO_ROW, "a file that could not be read has been replaced"
        if file.sizes is not None and (width, height) != (original := tuple(file.sizes[row].tolist())):
            raise UserError(_describe_other_size(file, row, original, (width, height)))
        part = slice(int(file.offsets[row]), int(file.offsets[row + 1]))
        boxes = file.boxes[part]
        if file.scores is not None:
            boxes = boxes[file.scores[part].argsort(descending=True, stable=True)]
        boxes = boxes[: self.num_proposals]
        if not boxes.isfinite().all():
            raise UserError(f"{file.path}: proposals of {_image_name(file, row)} are NaN or infinite; write it again")
        return boxes.clamp(boxes.new_zeros(4), torch.tensor([width, height] * 2, dtype=boxes.dtype))


def fingerprint_proposals(proposals: PrecomputedProposals) -> int:
    """Return a number below 2**63: a hash of the number of proposals of every image, and of its first one.

    Proposals of another model differ in these. On large datasets, reading all of them lasts long.
    """
    file, rows = proposals.file, proposals.rows
    starts, ends = file.offsets[rows], file.offsets[rows + 1]
    content = blake2b((ends - starts).tobytes(), digest_size=8)
    content.update(file.boxes[torch.from_numpy(starts[ends > starts])].numpy().tobytes())
    return int.from_bytes(content.digest(), "little") >> 1


def resolve_proposal_file(path: str | Path, split: str) -> Path:
    """Return the proposal file of a split: the path itself or, in a folder, the file whose name ends with the split's.

    Raises:
        UserError: there is none, or there are several.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    files = sorted(file for file in path.iterdir() if file.suffix in PROPOSAL_SUFFIXES)
    exact = re.compile(rf"(?:.*[^A-Za-z0-9])?{re.escape(split)}")
    same = [file for file in files if exact.fullmatch(file.stem)]
    alike = [f for f in files if standard_split(re.split(r"[^A-Za-z0-9]", f.stem)[-1]) == standard_split(split)]
    for matching in (same, alike):
        if len(matching) == 1:
            return matching[0]
        if matching:
            names = summarize_list([file.name for file in matching])
            raise UserError(f"{path}: several files are named after {split} ({names}); name one")
    names = summarize_list([file.name for file in files], empty="no proposal file")
    raise UserError(f"{path}: no file in it is named after {split}, such as {split}.safetensors; it contains {names}")


def proposals_for_dataset(path: str | Path, dataset: Dataset, limit: int) -> PrecomputedProposals:
    """Return the proposals of every image of a dataset.

    Images are matched by file name and folders, and by id where several have the same ones; in files of other
    toolboxes by name, or by order.

    Args:
        path: file, or folder with one file for each split.
        dataset: the images.
        limit: maximum number of proposals per image.

    Raises:
        UserError: the file cannot be read, or belongs to another dataset, or images lack proposals.
    """
    file = read_proposals(resolve_proposal_file(path, dataset.split))
    images = f"images of {dataset.split} of {dataset.root}"
    if file.names is None and len(file) != len(dataset):
        raise UserError(
            f"{file.path}: has proposals for {counted(len(file), 'image')} in the order of an annotation "
            "file, and there are "
            f"{len(dataset)} {images}: it belongs to another split or dataset"
        )
    rows = np.arange(len(dataset))
    if file.names is not None:
        rows = _match_images(file, [p.path for p in dataset.images], images, [p.id for p in dataset.images])
    _check_image_sizes(file, rows, dataset, images)
    return PrecomputedProposals(file, rows, max(1, min(limit, file.max_per_image)))


def proposals_for_images(path: str | Path, images: Sequence[Path], limit: int) -> PrecomputedProposals:
    """Return the proposals of image files, matched by name; at most ``limit`` per image.

    Raises:
        UserError: as :func:`proposals_for_dataset`, or the file has no image names.
    """
    if Path(path).is_dir():
        raise UserError(f"{path}: is a folder; name the file with the proposals of these images")
    file = read_proposals(path)
    if file.names is None:
        raise UserError(
            f"{path}: has no image names, its proposals are in the order of an annotation file; use it with a "
            "dataset only (libradet evaluate --data)"
        )
    rows = _match_images(file, images, "input images")
    return PrecomputedProposals(file, rows, max(1, min(limit, file.max_per_image)))


def _match_images(
    file: ProposalFile, paths: Sequence[Path], images: str, ids: Sequence[int | str] | None = None
) -> Int64[ndarray, " N"]:
    """Return the row of every image, NO_ROW for files without proposals that cannot be read."""
    assert file.names is not None
    names = [PurePosixPath(name.replace("\\", "/")) for name in file.names]
    by_name: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        by_name[name.name].append(row)
    by_id: dict[int | str, int] = {}
    if ids is not None and file.ids is not None:
        by_id = {int(key): row for row, key in enumerate(file.ids)}
    rows = []
    for i, path in enumerate(paths):
        closest = _closest(path, by_name.get(path.name, []), names)
        # Ids may be those of another origin, such as the order of files, so they only decide between equal names.
        row = closest[0] if len(closest) == 1 else by_id.get(ids[i]) if ids is not None else None
        rows.append(row if row in closest else None)
    missing_paths = [path for path, row in zip(paths, rows, strict=True) if row is None]
    # The proposal model left out files that cannot be read, and so does prediction.
    missing = [path.name for path in missing_paths if read_header(path).problem in (None, MISSING)]
    if len(missing) == len(paths):
        raise UserError(
            f"{file.path}: belongs to another dataset or split: it has proposals for {summarize_list(file.names, 2)}, "
            f"and the {images} are {summarize_list(missing, 2)}"
        )
    if missing:
        raise UserError(
            f"{file.path}: {len(missing)} of {len(paths)} {images} have no proposals in it "
            f"({summarize_list(missing)}); run the proposal model on all of them"
        )
    return np.array([NO_ROW if row is None else row for row in rows], np.int64)


def _closest(path: Path, candidates: list[int], names: Sequence[PurePosixPath]) -> list[int]:
    """Return those of the rows with the image's name that share most folders; of two, the one without others."""

    def similarity(row: int) -> tuple[int, bool]:
        pairs = zip(reversed(path.parts), reversed(names[row].parts), strict=False)
        num_parts = len(names[row].parts)
        num_shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(path.parts), num_parts))
        return num_shared, num_shared == num_parts

    if len(candidates) < 2:
        return candidates
    similarities = {row: similarity(row) for row in candidates}
    best = max(similarities.values())
    return [row for row in candidates if similarities[row] == best]


def _check_image_sizes(file: ProposalFile, rows: ndarray, dataset: Dataset, images: str) -> None:
    """Raise UserError if proposals were computed in other images."""
    sizes = np.array([(p.width, p.height) for p in dataset.images]).reshape(-1, 2)
    if file.sizes is None:
        _check_overhang(file, rows, dataset, sizes, images)
        return
    wrong = np.flatnonzero((file.sizes[rows] != sizes).any(1))
    if len(wrong):
        row, current = int(rows[wrong[0]]), tuple(sizes[wrong[0]].tolist())
        text = _describe_other_size(file, row, tuple(file.sizes[row].tolist()), current)
        raise UserError(f"{text} (as {len(wrong)} of {len(rows)} images)")


def _check_overhang(file: ProposalFile, rows: ndarray, dataset: Dataset, sizes: ndarray, images: str) -> None:
    """Raise UserError if boxes exceed their image: the only sign of a list in another order."""
    has_boxes = np.diff(file.offsets) > 0
    if not has_boxes[rows].any():
        return
    ends = np.zeros((len(file), 2), np.float32)
    ends[has_boxes] = np.maximum.reduceat(file.boxes[:, 2:].numpy(), file.offsets[:-1][has_boxes])
    wrong = np.flatnonzero((ends[rows] > sizes + MAX_OVERHANG).any(1))
    if len(wrong):
        names = summarize_list([dataset.images[i].path.name for i in wrong])
        raise UserError(
            f"{file.path}: proposals of {len(wrong)} of {len(rows)} {images} exceed their image "
            f"({names}): it belongs to another dataset, or lists the images in another order"
        )


def _describe_other_size(file: ProposalFile, row: int, original: tuple[int, int], current: tuple[int, int]) -> str:
    return (
        f"{file.path}: belongs to other images: {_image_name(file, row)} was {original[0]}x{original[1]} when the "
        f"proposals were computed and is {current[0]}x{current[1]}"
    )


def _image_name(file: ProposalFile, row: int) -> str:
    return file.names[row] if file.names is not None else f"image {row + 1}"
