"""IoU of many candidates with the objects near them, for matching on a CPU.

Neighboring anchors of a grid are neighbors in their list as well. In blocks of candidates, most objects overlap with
none of a block, and their IoU needs no computation; a matrix of all pairs is never in memory. Results are bit-equal to
those of the matrix.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from libradet.geometry.boxes import box_area

BLOCK_SIZE = 128
BLOCKS_PER_CHUNK = 512
"""Blocks that are processed together: a quarter of a mebibyte for each intermediate tensor."""


class BestIoU(NamedTuple):
    """Attributes:
    iou: largest IoU of each candidate with any object, 0 if there is none.
    row: of the first object with this IoU; 0 where it is below the wanted one.
    claimed: the last object whose own largest IoU is that with this candidate, -1 if there is none.
    """

    iou: Float[Tensor, "B N"]
    row: Int[Tensor, "B N"]
    claimed: Int[Tensor, "B N"]


class _Blocks(NamedTuple):
    """Blocks of candidates of all images, those near most objects first, and the objects near each of them.

    Attributes:
        order: index of each block in the order of images and candidates.
        sides, area: left, top, right and bottom side and area of each candidate of a block.
        objects: rows of the objects (images flattened) near each block, ascending, in the first slots.
        counts: number of objects near each block.
    """

    order: Int[Tensor, " M"]
    sides: list[Float[Tensor, "M K"]]
    area: Float[Tensor, "M K"]
    objects: Int[Tensor, "M R"]
    counts: Int[Tensor, " M"]


def best_iou(
    candidates: Float[Tensor, "B N 4"],
    gt_boxes: Float[Tensor, "B G 4"],
    gt_valid: Bool[Tensor, "B G"],
    min_iou: float,
    min_claim: float,
) -> BestIoU:
    """Return the object of largest IoU of each candidate, and the candidates of largest IoU of each object.

    Args:
        min_iou: candidates whose largest IoU is lower need no row.
        min_claim: objects whose largest IoU is lower claim no candidate.
    """
    return BestIoU(*_best_iou(candidates.detach(), gt_boxes.detach(), gt_valid, min_iou, min_claim))


# One operator: the sizes of its intermediate tensors depend on data.
@torch.library.custom_op("libradet::best_iou", mutates_args=())
def _best_iou(
    candidates: Tensor, gt_boxes: Tensor, gt_valid: Tensor, min_iou: float, min_claim: float
) -> tuple[Tensor, Tensor, Tensor]:
    batch, number = candidates.shape[:2]
    dtype = torch.promote_types(candidates.dtype, gt_boxes.dtype)
    candidates, gt_boxes = candidates.to(dtype), gt_boxes.to(dtype)
    blocks = _blocks(candidates, gt_boxes, gt_valid)
    objects = torch.stack([*gt_boxes.flatten(0, 1).unbind(-1), box_area(gt_boxes).flatten()])
    iou, largest = torch.zeros_like(blocks.area), torch.zeros(blocks.objects.shape, dtype=dtype)
    for start in range(0, len(iou), BLOCKS_PER_CHUNK):
        count = blocks.counts[start : start + BLOCKS_PER_CHUNK]
        stop = start + len(count)
        near = objects[:, blocks.objects[start:stop, : int(count[0])].T, None]
        # Sorted by their number of objects: blocks with another one come first.
        for slot, number_of_blocks in enumerate((count[:, None] > torch.arange(int(count[0]))).sum(0).tolist()):
            own = slice(start, start + number_of_blocks)
            sides = [side[own] for side in blocks.sides]
            values = _iou(sides, blocks.area[own], near[:, slot, :number_of_blocks])
            torch.amax(values, 1, out=largest[own, slot])
            torch.maximum(iou[own], values, out=iou[own])

    def largest_if_wanted(block: Tensor, _: Tensor) -> Tensor:
        own = iou[block]
        return torch.where((own >= min_iou) & (own > 0), own, torch.inf)

    # Which object it is matters of few candidates only: to compare all would be slower than the arithmetic above.
    near_enough = (largest >= min_iou) & (largest > 0)
    row = _objects_at(blocks, objects, near_enough, largest_if_wanted, "amin")
    own_best = torch.zeros_like(objects[0]).scatter_reduce_(0, blocks.objects.flatten(), largest.flatten(), "amax")
    of_object = own_best[blocks.objects]
    ties = (largest == of_object) & (of_object >= min_claim)
    claimed = _objects_at(blocks, objects, ties, lambda _, near: own_best[near], "amax")

    def restore(values: Tensor) -> Tensor:
        ordered = torch.empty_like(values).index_copy_(0, blocks.order, values)
        return ordered.view(batch, -1)[:, :number]

    first = torch.arange(batch)[:, None] * gt_boxes.shape[1]
    row, claimed = restore(row), restore(claimed)
    return restore(iou).contiguous(), (row - first).clamp(min=0), torch.where(claimed >= 0, claimed - first, -1)


def _blocks(candidates: Tensor, gt_boxes: Tensor, gt_valid: Tensor) -> _Blocks:
    missing = -candidates.shape[1] % BLOCK_SIZE
    padded = torch.nn.functional.pad(candidates, (0, 0, 0, missing))
    # Each side contiguous: otherwise, every pass over it would skip the three others of a candidate.
    sides = padded.movedim(-1, 0).contiguous().view(4, len(candidates), -1, BLOCK_SIZE).unbind(0)
    left, top, right, bottom = sides
    # Empty candidates, such as anchors in the padding of an image, overlap with nothing.
    empty = (right <= left) | (bottom <= top)
    low = [side.masked_fill(empty, torch.inf).amin(2)[..., None] for side in (left, top)]
    high = [side.masked_fill(empty, -torch.inf).amax(2)[..., None] for side in (right, bottom)]
    gt_left, gt_top, gt_right, gt_bottom = gt_boxes[:, None].unbind(-1)
    near = (gt_left < high[0]) & (gt_right > low[0]) & (gt_top < high[1]) & (gt_bottom > low[1])
    near = (near & gt_valid[:, None]).flatten(0, 1)
    counts, order = near.sum(1).sort(descending=True, stable=True)
    block, column = near.index_select(0, order).nonzero(as_tuple=True)
    slot = torch.arange(len(block)) - (counts.cumsum(0) - counts)[block]
    objects = torch.zeros(len(order), int(counts[0]), dtype=torch.int64)
    objects[block, slot] = column
    blocks_per_image = near.shape[0] // len(candidates)
    objects += (order // blocks_per_image)[:, None] * gt_boxes.shape[1]
    sides = [side.flatten(0, 1).index_select(0, order) for side in sides]
    left, top, right, bottom = sides
    area = (right - left).clamp_(min=0).mul_((bottom - top).clamp_(min=0))
    return _Blocks(order, sides, area, objects, counts)


def _iou(
    sides: list[Float[Tensor, "M K"]], area: Float[Tensor, "M K"], objects: Float[Tensor, "5 M 1"]
) -> Float[Tensor, "M K"]:
    """Return the IoU of the candidates of each block with its object, by the operations of ``pairwise_iou``.

    Args:
        objects: sides and area.
    """
    left, top, right, bottom = sides
    gt_left, gt_top, gt_right, gt_bottom, gt_area = objects
    shared = torch.minimum(right, gt_right).sub_(torch.maximum(left, gt_left)).clamp_(min=0)
    shared *= torch.minimum(bottom, gt_bottom).sub_(torch.maximum(top, gt_top)).clamp_(min=0)
    union = torch.add(area, gt_area).sub_(shared).clamp_(min=1e-6)
    return shared.div_(union)


def _objects_at(
    blocks: _Blocks,
    objects: Float[Tensor, "5 O"],
    pairs: Bool[Tensor, "M R"],
    wanted: Callable[[Tensor, Tensor], Tensor],
    reduce: Literal["amin", "amax"],
) -> Int[Tensor, "M K"]:
    """Return the first or last object (images flattened) whose IoU with a candidate is the wanted one, -1 without any.

    Args:
        objects: sides and areas.
        pairs: blocks and slots of the objects that are considered.
        wanted: returns it for blocks and objects.
    """
    none = -1 if reduce == "amax" else objects.shape[1]
    rows = torch.full_like(blocks.area, none, dtype=torch.int64)
    for part in pairs.nonzero().split(BLOCKS_PER_CHUNK):
        block, slot = part.unbind(1)
        near = blocks.objects[block, slot][:, None]
        values = _iou([side[block] for side in blocks.sides], blocks.area[block], objects[:, near])
        hits = torch.where(values == wanted(block, near), near, none)
        rows.scatter_reduce_(0, block[:, None].expand_as(hits), hits, reduce)
    return rows.masked_fill_(rows == none, -1)
