"""Test-time augmentation: every image is looked at several times, and what was found is put together."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from libradet.data.batch import Batch
from libradet.data.loading.transforms import Sample, Size, collate, flip, unlabeled
from libradet.errors import UserError
from libradet.geometry.boxes import clip
from libradet.geometry.suppression import suppress
from libradet.inference.detections import Detections
from libradet.inference.finder import Finder
from libradet.inference.predictor import batches_of, find

Merge = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""From boxes [B, N, 4], scores, labels and validity [B, N] of all views to the rows [B, D] that stay, best first, their
scores, and which are real."""

OVERLAP = 0.5
"""IoU above which of two detections of a class the worse one is dropped, if nobody says how to merge."""


class Views(nn.Module):
    """A finder that looks with another one: at the image, mirrored and in other sizes, if asked for.

    Detections are brought back to the batch's pixels and merged; masks come with the detections that stay. With
    ``sizes``, images have to come as they are, which ``image_size`` says, and each size sees what it would alone.
    Images are resized and mirrored on the CPU, as a loader does it, and are uint8.

    Args:
        finder: what looks.
        flip: also look at the image mirrored left to right.
        sizes: to resize to, one after the other: (short, long) sides, "original", or the short side alone, with the
            long one in the proportion of the finder's own size. Nothing: the batch as it is.
        merge: class-wise suppression at an IoU of 0.5, to as many as the finder gives, if None.

    Raises:
        UserError: a size is none.
    """

    def __init__(
        self, finder: Finder, flip: bool = False, sizes: Sequence[int | Size] = (), merge: Merge | None = None
    ) -> None:
        super().__init__()
        self.finder = finder
        self.flip = flip
        self.sizes = [_whole_size(size, finder.image_size) for size in sizes]
        self.merge = merge

    @property
    def name(self) -> str:
        """That of the finder."""
        return self.finder.name

    @property
    def class_names(self) -> Sequence[str]:
        """Those of the finder."""
        return self.finder.class_names

    @property
    def category_ids(self) -> Sequence[int]:
        """Those of the finder."""
        return self.finder.category_ids

    @property
    def image_size(self) -> Size:
        """Images come as they are if they are looked at in several sizes."""
        return "original" if self.sizes else self.finder.image_size

    @property
    def divisor(self) -> int:
        """That of the finder."""
        return self.finder.divisor

    @property
    def device(self) -> torch.device:
        """That of the finder."""
        return self.finder.device

    @property
    def proposes(self) -> bool:
        """Whether the finder does."""
        return self.finder.proposes

    @property
    def gives_masks(self) -> bool:
        """Whether the finder does."""
        return self.finder.gives_masks

    @property
    def proposals_wanted(self) -> int:
        """As many as the finder wants."""
        return self.finder.proposals_wanted

    def forward(self, batch: Batch) -> Detections:
        """What is left of the detections of all views, in pixels of ``batch``."""
        sides = [False, True] if self.flip else [False]
        views = [self._look(batch, size, mirrored) for size in self.sizes or [None] for mirrored in sides]
        found = _joined(views, 1)
        boxes = clip(found.boxes, batch.sizes.to(found.boxes.device))
        merge = self.merge or partial(_by_class, size=views[0].scores.shape[1])
        rows, scores, kept = merge(boxes, found.scores, found.labels, found.valid)
        image = torch.arange(len(rows), device=rows.device)[:, None]
        boxes, labels = boxes[image, rows] * kept[..., None], found.labels[image, rows] * kept
        masks = None if found.masks is None else found.masks[image, rows] * kept[..., None, None]
        return Detections(boxes, scores * kept, labels, kept, masks)

    def _look(self, batch: Batch, size: Size | None, mirrored: bool) -> Detections:
        """What the finder sees in one view, in pixels and in the order of ``batch``."""
        if size is None and not mirrored:
            return find(self.finder, batch)
        samples = _samples(batch, size or "original")
        samples = [flip(sample) for sample in samples] if mirrored else samples
        if size is None:
            height, width = batch.images.shape[2:]
            parts = [collate(samples, canvas=(height, width))]
        else:
            parts = list(batches_of(samples, self.finder.divisor, len(samples)))
        found = [_returned(find(self.finder, _as_part_of(batch, part)), part, mirrored) for part in parts]
        rows = torch.cat([part.index for part in parts if part.index is not None])
        whole = _joined(found, 0)
        order = rows.argsort().to(whole.boxes.device)
        boxes, scores, labels, valid = (t[order] for t in whole[:4])
        return Detections(boxes, scores, labels, valid, None if whole.masks is None else whole.masks[order])


def _joined(parts: Sequence[Detections], dim: int) -> Detections:
    boxes, scores, labels, valid = (torch.cat(t, dim) for t in zip(*(part[:4] for part in parts), strict=True))
    masks = [part.masks for part in parts if part.masks is not None]
    return Detections(boxes, scores, labels, valid, torch.cat(masks, dim) if masks else None)


def _whole_size(size: int | Size, own: Size) -> Size:
    if size == "original":
        return size
    if isinstance(size, int):
        if own == "original":
            raise UserError(f"sizes has {size}: this model has no size of its own, so name the long side as well")
        size = size, round(size * own[1] / own[0])
    if len(size) != 2 or not 0 < size[0] <= size[1]:
        raise UserError(f"sizes has {size}: a short side, or the short and the long one, in pixels above 0")
    return size


def _samples(batch: Batch, size: Size) -> list[Sample]:
    """The images without their padding, resized; ``index`` is the row in the batch."""
    images, given = batch.images.cpu(), None if batch.proposals is None else batch.proposals.cpu()
    return [
        unlabeled(images[row, :, :height, :width], size, row, None if given is None else given[row])
        for row, (height, width) in enumerate(batch.sizes.tolist())
    ]


def _as_part_of(batch: Batch, part: Batch) -> Batch:
    """The part with rows of the dataset and scales of the files, as far as the batch knows them."""
    assert part.index is not None
    assert part.scales is not None
    index = None if batch.index is None else batch.index.cpu()[part.index]
    scales = part.scales if batch.scales is None else part.scales * batch.scales.cpu()[part.index]
    return part._replace(index=index, scales=scales)


def _returned(found: Detections, part: Batch, mirrored: bool) -> Detections:
    """Detections in the pixels of which the part was made."""
    boxes, masks = found.boxes, found.masks
    if mirrored:
        boxes = _mirrored(boxes, part.sizes[:, 1:].to(boxes))
        masks = None if masks is None else masks.flip(-1)
    assert part.scales is not None
    scale = part.scales.repeat(1, 2)[:, None].to(boxes)
    return found._replace(boxes=boxes / scale, masks=masks)


def _mirrored(boxes: Float[Tensor, "B D 4"], width: Float[Tensor, "B 1"]) -> Float[Tensor, "B D 4"]:
    left, top, right, bottom = boxes.unbind(-1)
    return torch.stack([width - right, top, width - left, bottom], dim=-1)


def _by_class(boxes: Tensor, scores: Tensor, labels: Tensor, valid: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    rows, kept = suppress(boxes, scores, labels, valid, threshold=OVERLAP, size=size)
    return rows, scores.gather(1, rows), kept
