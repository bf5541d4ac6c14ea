"""IoU-guided NMS (IoU-Net; Jiang et al., ECCV 2018, Algorithm 1) with an output of fixed size, as one operator.

Of boxes that overlap, the one of the highest expected IoU is kept, not the one of the highest class score; it inherits
the highest class score among them.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import box_iou, nms


@torch.library.custom_op("libradet::iou_guided_nms", mutates_args=())
def _iou_guided_nms(
    boxes: Tensor, scores: Tensor, quality: Tensor, groups: Tensor, valid: Tensor, threshold: float, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    kept = torch.zeros((len(boxes), size), dtype=torch.int64, device=boxes.device)
    inherited = torch.zeros((len(boxes), size), device=boxes.device)
    filled = torch.zeros((len(boxes), size), dtype=torch.bool, device=boxes.device)
    boxes, scores, quality = boxes.float(), scores.float(), quality.float()
    for b in range(len(boxes)):
        # Clusters need the IoU of all pairs of boxes: one group at a time, to keep that matrix small.
        members = [valid[b] & (groups[b] == group) for group in groups[b, valid[b]].unique()]
        clusters = [_clusters(m.nonzero().squeeze(1), boxes[b], scores[b], quality[b], threshold) for m in members]
        if not clusters:
            continue
        rows, best = (torch.cat(parts) for parts in zip(*clusters, strict=True))
        # Sorted by row first, so that of equal scores the lower row comes first, in any group.
        order = rows.argsort()
        order = order[best[order].argsort(descending=True, stable=True)][:size]
        number = len(order)
        kept[b, :number], inherited[b, :number], filled[b, :number] = rows[order], best[order], True
    return kept, inherited, filled


def _clusters(
    rows: Tensor, boxes: Tensor, scores: Tensor, quality: Tensor, threshold: float
) -> tuple[Int[Tensor, " K"], Float[Tensor, " K"]]:
    """Return the rows of the kept boxes, and the highest score of each cluster of boxes."""
    boxes, scores, quality = boxes[rows], scores[rows], quality[rows]
    centers = nms(boxes, quality, threshold)
    overlaps = box_iou(boxes[centers], boxes) > threshold
    # A kept box belongs to its own cluster alone, regardless of rounding or of a threshold of 1.
    overlaps[:, centers] = torch.eye(len(centers), dtype=torch.bool, device=boxes.device)
    owner = overlaps.int().argmax(0)
    best = torch.zeros(len(centers), device=boxes.device)
    best = best.scatter_reduce(0, owner, scores.where(overlaps.any(0), 0), "amax")
    return rows[centers], best


@_iou_guided_nms.register_fake
def _(boxes, scores, quality, groups, valid, threshold, size):
    shape = (boxes.shape[0], size)
    rows, filled = boxes.new_empty(shape, dtype=torch.int64), boxes.new_empty(shape, dtype=torch.bool)
    return rows, boxes.new_empty(shape, dtype=torch.float32), filled


def iou_guided_nms(
    boxes: Float[Tensor, "B N 4"],
    scores: Float[Tensor, "B N"],
    quality: Float[Tensor, "B N"],
    groups: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    *,
    threshold: float,
    size: int,
) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"], Bool[Tensor, "B K"]]:
    """Apply NMS in order of falling ``quality`` inside each group (class) of each image.

    Args:
        scores: at least 0.
        quality: expected IoU of each box with its object.
        valid: which candidates are used.
        threshold: IoU above which a box belongs to the cluster of a kept one.
        size: K, the number of output slots.

    Returns:
        Rows of the ``size`` kept boxes with the highest inherited scores, best first (0 in empty slots), these scores,
        and which slots are filled.
    """
    return _iou_guided_nms(boxes.detach(), scores.detach(), quality.detach(), groups, valid, threshold, size)
