"""Non-maximum suppression with an output of fixed size, as one operator.

The kernel is torchvision's; the operator around it hides its data-dependent size, so that a whole
training step stays one graph.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import nms


@torch.library.custom_op("libradet::suppress", mutates_args=())
def _suppress(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, size: int
) -> tuple[Tensor, Tensor]:
    kept = torch.zeros((len(boxes), size), dtype=torch.int64, device=boxes.device)
    filled = torch.zeros((len(boxes), size), dtype=torch.bool, device=boxes.device)
    for b in range(len(boxes)):
        rows = valid[b].nonzero().squeeze(1)
        rows = rows[_grouped_nms(boxes[b, rows], scores[b, rows], groups[b, rows], threshold)[:size]]
        kept[b, : len(rows)] = rows
        filled[b, : len(rows)] = True
    return kept, filled


def _grouped_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Rows kept, by falling score. The kernel is quadratic, so on a CPU each group goes alone."""
    boxes, scores = boxes.float(), scores.float()
    if boxes.is_cuda:
        span = boxes.amax() - boxes.amin() + 1 if len(boxes) else 1
        return nms(boxes + (groups * span)[:, None], scores, threshold)
    kept = []
    for group in groups.unique():
        rows = (groups == group).nonzero().squeeze(1)
        kept.append(rows[nms(boxes[rows], scores[rows], threshold)])
    # Sorted first, so that of equal scores the earlier row comes first, whatever its group.
    rows = torch.cat(kept).sort().values if kept else groups
    return rows[scores[rows].argsort(descending=True, stable=True)]


@_suppress.register_fake
def _(boxes, scores, groups, valid, threshold, size):
    shape = (boxes.shape[0], size)
    return boxes.new_empty(shape, dtype=torch.int64), boxes.new_empty(shape, dtype=torch.bool)


def suppress(
    boxes: Float[Tensor, "B N 4"],
    scores: Float[Tensor, "B N"],
    groups: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    *,
    threshold: float,
    size: int,
) -> tuple[Int[Tensor, "B K"], Bool[Tensor, "B K"]]:
    """Greedy suppression inside each group (level or class) of each picture.

    Returns:
        Rows of the ``size`` best survivors by falling score (0 where there are fewer), and which are real.
    """
    return _suppress(boxes.detach(), scores.detach(), groups, valid, threshold, size)
