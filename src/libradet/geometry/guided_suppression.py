"""IoU-guided suppression (IoU-Net; Jiang et al., ECCV 2018, Algorithm 1) with an output of fixed size, as one operator.

Of boxes that overlap, the one that is expected to lie best stays, not the one with the best class score; it
inherits the best class score among them.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import box_iou, nms


@torch.library.custom_op("libradet::guided_suppress", mutates_args=())
def _guided_suppress(
    boxes: Tensor, scores: Tensor, quality: Tensor, groups: Tensor, valid: Tensor, threshold: float, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    kept = torch.zeros((len(boxes), size), dtype=torch.int64, device=boxes.device)
    inherited = torch.zeros((len(boxes), size), device=boxes.device)
    filled = torch.zeros((len(boxes), size), dtype=torch.bool, device=boxes.device)
    boxes, scores, quality = boxes.float(), scores.float(), quality.float()
    for b in range(len(boxes)):
        # A cluster is found among all pairs of boxes: class by class they are few enough.
        own = [valid[b] & (groups[b] == group) for group in groups[b, valid[b]].unique()]
        found = [_clusters(m.nonzero().squeeze(1), boxes[b], scores[b], quality[b], threshold) for m in own]
        if not found:
            continue
        rows, best = (torch.cat(parts) for parts in zip(*found, strict=True))
        # By row first, so that of equal scores the earlier row comes first, whatever its group.
        order = rows.argsort()
        order = order[best[order].argsort(descending=True, stable=True)][:size]
        number = len(order)
        kept[b, :number], inherited[b, :number], filled[b, :number] = rows[order], best[order], True
    return kept, inherited, filled


def _clusters(
    rows: Tensor, boxes: Tensor, scores: Tensor, quality: Tensor, threshold: float
) -> tuple[Int[Tensor, " K"], Float[Tensor, " K"]]:
    """Boxes that stay, and the best score of all that each of them removes."""
    boxes, scores, quality = boxes[rows], scores[rows], quality[rows]
    centers = nms(boxes, quality, threshold)
    over = box_iou(boxes[centers], boxes) > threshold
    # Whatever rounding or a threshold of 1 says of a center and itself, or of two that stay.
    over[:, centers] = torch.eye(len(centers), dtype=torch.bool, device=boxes.device)
    owner = over.int().argmax(0)
    best = torch.zeros(len(centers), device=boxes.device)
    best = best.scatter_reduce(0, owner, scores.where(over.any(0), 0), "amax")
    return rows[centers], best


@_guided_suppress.register_fake
def _(boxes, scores, quality, groups, valid, threshold, size):
    shape = (boxes.shape[0], size)
    rows, filled = boxes.new_empty(shape, dtype=torch.int64), boxes.new_empty(shape, dtype=torch.bool)
    return rows, boxes.new_empty(shape, dtype=torch.float32), filled


def guided_suppress(
    boxes: Float[Tensor, "B N 4"],
    scores: Float[Tensor, "B N"],
    quality: Float[Tensor, "B N"],
    groups: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    *,
    threshold: float,
    size: int,
) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"], Bool[Tensor, "B K"]]:
    """Suppression inside each group (class) of each image by falling ``quality``.

    Args:
        scores: not below 0.
        quality: expected IoU of each box with its object.

    Returns:
        Rows of the ``size`` survivors with the best inherited scores, best first (0 where there are fewer), these
        scores, and which are real.
    """
    return _guided_suppress(boxes.detach(), scores.detach(), quality.detach(), groups, valid, threshold, size)
