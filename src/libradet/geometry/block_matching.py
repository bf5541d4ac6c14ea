"""IoU of many candidates with the objects near them, for matching on a CPU.

Neighboring anchors of a grid are neighbors in their list as well. In blocks of candidates, most objects overlap with
none of a block, and their IoU needs no computation; a matrix of all pairs is never in memory. Results are bit-equal to
those of the matrix.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from libradet.geometry.boxes import box_area

BLOCK_SIZE = 128
BLOCKS_PER_CHUNK = 1024
"""Blocks that are processed together: half a mebibyte for each intermediate tensor."""


class BestIoU(NamedTuple):
    """Attributes:
    iou: largest IoU of each candidate with any object, 0 if there is none.
    row: of the first object with this IoU.
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
    min_claim: float,
) -> BestIoU:
    """Return the object of largest IoU of each candidate, and the candidates of largest IoU of each object.

    Args:
        min_claim: objects whose largest IoU is lower claim no candidate.
    """
    return BestIoU(*_best_iou(candidates.detach(), gt_boxes.detach(), gt_valid, min_claim))


# One operator: the sizes of its intermediate tensors depend on data.
@torch.library.custom_op("libradet::best_iou", mutates_args=())
def _best_iou(
    candidates: Tensor, gt_boxes: Tensor, gt_valid: Tensor, min_claim: float
) -> tuple[Tensor, Tensor, Tensor]:
    batch, number = candidates.shape[:2]
    dtype = torch.promote_types(candidates.dtype, gt_boxes.dtype)
    candidates, gt_boxes = candidates.to(dtype), gt_boxes.to(dtype)
    blocks = _blocks(candidates, gt_boxes, gt_valid)
    gt_sides, gt_area = gt_boxes.flatten(0, 1).unbind(-1), box_area(gt_boxes).flatten()
    iou, row = torch.zeros_like(blocks.area), torch.zeros_like(blocks.area, dtype=torch.int32)
    largest = torch.zeros(blocks.objects.shape, dtype=iou.dtype)
    starts = range(0, len(iou), BLOCKS_PER_CHUNK)
    counts = [blocks.counts[start : start + BLOCKS_PER_CHUNK] for start in starts]
    for start, count in zip(starts, counts, strict=True):
        for slot in range(int(count[0])):
            # Sorted by their number of objects: those with another one come first.
            own = slice(start, start + int((count > slot).sum()))
            near = blocks.objects[own, slot, None]
            values = _iou([side[own] for side in blocks.sides], blocks.area[own], gt_sides, gt_area, near)
            largest[own, slot] = values.amax(1)
            row[own] = torch.where(values > iou[own], near.int(), row[own])
            torch.maximum(iou[own], values, out=iou[own])
    claimed = _claims(blocks, gt_sides, gt_area, largest, min_claim)

    def restore(values: Tensor) -> Tensor:
        ordered = torch.empty_like(values).index_copy_(0, blocks.order, values)
        return ordered.view(batch, -1)[:, :number]

    first = torch.arange(batch)[:, None] * gt_boxes.shape[1]
    row, claimed = restore(row).long(), restore(claimed)
    return restore(iou).contiguous(), (row - first).clamp(min=0), torch.where(claimed >= 0, claimed - first, -1)


def _blocks(candidates: Tensor, gt_boxes: Tensor, gt_valid: Tensor) -> _Blocks:
    missing = -candidates.shape[1] % BLOCK_SIZE
    padded = torch.nn.functional.pad(candidates, (0, 0, 0, missing))
    sides = [side.reshape(len(candidates), -1, BLOCK_SIZE) for side in padded.unbind(-1)]
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
    return _Blocks(order, sides, box_area(torch.stack(sides, -1)), objects, counts)


def _iou(
    sides: list[Float[Tensor, "M K"]],
    area: Float[Tensor, "M K"],
    gt_sides: tuple[Tensor, ...],
    gt_area: Float[Tensor, " O"],
    objects: Int[Tensor, "M 1"],
) -> Float[Tensor, "M K"]:
    """Return the IoU of the candidates of each block with its object, by the operations of ``pairwise_iou``."""
    left, top, right, bottom = sides
    gt_left, gt_top, gt_right, gt_bottom = (side[objects] for side in gt_sides)
    shared = torch.minimum(right, gt_right).sub_(torch.maximum(left, gt_left)).clamp_(min=0)
    shared *= torch.minimum(bottom, gt_bottom).sub_(torch.maximum(top, gt_top)).clamp_(min=0)
    union = torch.add(area, gt_area[objects]).sub_(shared).clamp_(min=1e-6)
    return shared.div_(union)


def _claims(
    blocks: _Blocks,
    gt_sides: tuple[Tensor, ...],
    gt_area: Float[Tensor, " O"],
    largest: Float[Tensor, "M R"],
    min_claim: float,
) -> Int[Tensor, "M K"]:
    """Return the last object (images flattened) that claims each candidate.

    Args:
        largest: IoU in each block with each object near it.
    """
    own_best = torch.zeros_like(gt_area).scatter_reduce_(0, blocks.objects.flatten(), largest.flatten(), "amax")
    of_object = own_best[blocks.objects]
    block, slot = ((largest == of_object) & (of_object >= min_claim)).nonzero(as_tuple=True)
    objects = blocks.objects[block, slot][:, None]
    values = _iou([side[block] for side in blocks.sides], blocks.area[block], gt_sides, gt_area, objects)
    claims = torch.where(values == own_best[objects], objects, -1)
    claimed = torch.full_like(blocks.area, -1, dtype=torch.int64)
    return claimed.scatter_reduce_(0, block[:, None].expand_as(claims), claims, "amax")
