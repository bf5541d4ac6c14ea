"""Proposals of a file, brought to the images that they belong to."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

from libradet.data.checks.report import few
from libradet.data.layouts.formats import standard_split
from libradet.data.proposals.proposal_file import ProposalFile, read_proposals
from libradet.data.records import Dataset
from libradet.errors import UserError

SUFFIXES = (".safetensors", ".pkl", ".pickle")
BEYOND = 2.0
"""Pixels by which boxes of a file that does not know its images may leave them."""


@dataclass(frozen=True, eq=False)
class GivenProposals:
    """The proposals of some images.

    Attributes:
        file: where they are.
        rows: of each image, in the file.
        count: proposals that an image gets: no more, and padding where it has fewer.
    """

    file: ProposalFile
    rows: Int64[ndarray, " N"]
    count: int

    def of(self, index: int, width: int, height: int) -> Float[Tensor, "P 4"]:
        """The best ``count`` proposals of an image or all it has, best first, xyxy in pixels of its file.

        Args:
            index: which of the images.
            width, height: of the file, in pixels.

        Raises:
            UserError: they are not numbers, or were made in an image of another size.
        """
        file, row = self.file, int(self.rows[index])
        if file.sizes is not None and (width, height) != (made := tuple(file.sizes[row].tolist())):
            raise UserError(_other_size(file, row, made, (width, height)))
        part = slice(int(file.offsets[row]), int(file.offsets[row + 1]))
        boxes = file.boxes[part]
        if file.scores is not None:
            boxes = boxes[file.scores[part].argsort(descending=True, stable=True)]
        boxes = boxes[: self.count]
        if not boxes.isfinite().all():
            raise UserError(f"{file.path}: proposals of {_name(file, row)} are not numbers; write the file anew")
        return boxes.clamp(boxes.new_zeros(4), torch.tensor([width, height] * 2, dtype=boxes.dtype))


def find_file(path: str | Path, split: str) -> Path:
    """The proposal file of a split: the path itself or, in a folder, the file whose name ends with the split's.

    Raises:
        UserError: there is none, or there are several.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    exact = re.compile(rf"(?:.*[^A-Za-z0-9])?{re.escape(split)}")
    same = [file for file in files if exact.fullmatch(file.stem)]
    alike = [f for f in files if standard_split(re.split(r"[^A-Za-z0-9]", f.stem)[-1]) == standard_split(split)]
    for matching in (same, alike):
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise UserError(
                f"{path}: several files are named after {split} ({few([f.name for f in matching])}); name one"
            )
    raise UserError(f"{path}: no file in it is named after {split}, such as {split}.safetensors; found: {_some(files)}")


def give_to_dataset(path: str | Path, dataset: Dataset, limit: int) -> GivenProposals:
    """The proposals of every image of a dataset.

    Images are recognized by id and file name; in files of other toolboxes by name, or by order.

    Args:
        path: file, or folder with one file for each split.
        limit: an image gets at most so many.

    Raises:
        UserError: the file cannot be read, or is of another dataset, or images lack proposals.
    """
    file = read_proposals(find_file(path, dataset.split))
    what = f"images of {dataset.split} of {dataset.root}"
    if file.names is None and len(file) != len(dataset):
        raise UserError(
            f"{file.path}: has proposals for {len(file)} images in the order of an annotation file, and there are "
            f"{len(dataset)} {what}: it belongs to another split or dataset"
        )
    rows = np.arange(len(dataset))
    if file.names is not None:
        rows = _find(file, [p.path for p in dataset.images], what, [p.id for p in dataset.images])
    _check_sizes(file, rows, dataset, what)
    return GivenProposals(file, rows, max(1, min(limit, file.most)))


def give_to_files(path: str | Path, images: Sequence[Path], limit: int) -> GivenProposals:
    """The proposals of image files, recognized by name. Raises UserError as :func:`give_to_dataset` does."""
    if Path(path).is_dir():
        raise UserError(f"{path}: is a folder; name the file with the proposals of these images")
    file = read_proposals(path)
    if file.names is None:
        raise UserError(
            f"{path}: names no images, its proposals are in the order of an annotation file: it can be used with a "
            "dataset only (libradet evaluate --data)"
        )
    return GivenProposals(file, _find(file, images, "named images"), max(1, min(limit, file.most)))


def _find(file: ProposalFile, paths: Sequence[Path], what: str, ids: Sequence[int] | None = None) -> ndarray:
    """The row of every image."""
    assert file.names is not None
    names = [PurePosixPath(name.replace("\\", "/")) for name in file.names]
    by_name: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        by_name[name.name].append(row)
    by_id = {} if ids is None or file.ids is None else {int(key): row for row, key in enumerate(file.ids)}
    rows = []
    for i, path in enumerate(paths):
        row = by_id.get(ids[i]) if ids is not None else None
        if row is None or names[row].name != path.name:
            row = _closest(path, by_name.get(path.name, []), names)
        rows.append(row)
    missing = [path.name for path, row in zip(paths, rows, strict=True) if row is None]
    if len(missing) == len(paths):
        raise UserError(
            f"{file.path}: is of another dataset or split: it has proposals for {few(file.names, 2)}, and the "
            f"{what} are {few(missing, 2)}"
        )
    if missing:
        raise UserError(
            f"{file.path}: {len(missing)} of {len(paths)} {what} have no proposals in it ({few(missing)}); "
            "let the model that proposes look at all of them"
        )
    return np.array(rows, np.int64)


def _closest(path: Path, candidates: list[int], names: Sequence[PurePosixPath]) -> int | None:
    """Of the rows with the image's name, the one that shares most folders; None if that is not one."""

    def shared(row: int) -> int:
        pairs = zip(reversed(path.parts), reversed(names[row].parts), strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(path.parts), len(names[row].parts)))

    if len(candidates) < 2:
        return candidates[0] if candidates else None
    ranked = sorted(candidates, key=shared, reverse=True)
    return ranked[0] if shared(ranked[0]) > shared(ranked[1]) else None


def _check_sizes(file: ProposalFile, rows: ndarray, dataset: Dataset, what: str) -> None:
    """What was made in other images must not go unnoticed."""
    sizes = np.array([(p.width, p.height) for p in dataset.images]).reshape(-1, 2)
    if file.sizes is not None:
        wrong = np.flatnonzero((file.sizes[rows] != sizes).any(1))
        if len(wrong):
            row, own = int(rows[wrong[0]]), tuple(sizes[wrong[0]].tolist())
            other = _other_size(file, row, tuple(file.sizes[row].tolist()), own)
            raise UserError(f"{other} ({len(wrong)} of {len(rows)} are)")
        return
    # A list in another order would go unnoticed, were it not for boxes beyond the border.
    filled = np.flatnonzero(np.diff(file.offsets)[rows] > 0)
    if not len(filled):
        return
    ends = np.zeros((len(file), 2), np.float32)
    held = np.flatnonzero(np.diff(file.offsets) > 0)
    ends[held] = np.maximum.reduceat(file.boxes[:, 2:].numpy(), file.offsets[:-1][held])
    wrong = np.flatnonzero((ends[rows] > sizes + BEYOND).any(1))
    if len(wrong):
        names = few([dataset.images[i].path.name for i in wrong])
        raise UserError(
            f"{file.path}: proposals of {len(wrong)} of {len(rows)} {what} lie beyond the image "
            f"({names}): it belongs to another dataset, or lists the images in another order"
        )


def _other_size(file: ProposalFile, row: int, made: tuple[int, int], own: tuple[int, int]) -> str:
    name = _name(file, row)
    return f"{file.path}: is of other images: {name} was {made[0]}x{made[1]} when it was made and is {own[0]}x{own[1]}"


def _name(file: ProposalFile, row: int) -> str:
    return file.names[row] if file.names is not None else f"image {row + 1}"


def _some(files: Sequence[Path]) -> str:
    return few([file.name for file in files]) or "no proposal file"
