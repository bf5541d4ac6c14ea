"""Non-maximum suppression with an output of fixed size, as one operator.

The kernel is torchvision's; the operator around it hides its data-dependent size, so that a whole
training step stays one graph.
"""

from concurrent.futures import ThreadPoolExecutor

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
    boxes, scores = boxes.float(), scores.float()
    for b, rows in enumerate(_survivors(boxes, scores, groups, valid, threshold)):
        rows = rows[:size]
        kept[b, : len(rows)] = rows
        filled[b, : len(rows)] = True
    return kept, filled


def _survivors(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float
) -> list[Int[Tensor, " K"]]:
    """Of each image, rows kept by falling score.

    The kernel is quadratic and uses one thread of a CPU: there each group of each image goes alone, dealt out to
    threads.
    """
    rows = [own.nonzero().squeeze(1) for own in valid]
    if boxes.device.type != "cpu":
        return [r[_grouped_nms(boxes[b, r], scores[b, r], groups[b, r], threshold)] for b, r in enumerate(rows)]
    parts = [(b, r[groups[b, r] == group]) for b, r in enumerate(rows) for group in groups[b, r].unique()]
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        kept = list(threads.map(lambda part: part[1][_nms(boxes[part], scores[part], threshold)], parts))
    found = []
    for b in range(len(boxes)):
        # Sorted first, so that of equal scores the earlier row comes first, whatever its group.
        own = torch.cat([rows[b][:0], *(k for (image, _), k in zip(parts, kept, strict=True) if image == b)])
        own = own.sort().values
        found.append(own[scores[b, own].argsort(descending=True, stable=True)])
    return found


# New threads would record gradients.
_nms = torch.inference_mode()(nms)


def _grouped_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    span = boxes.amax() - boxes.amin() + 1 if len(boxes) else 1
    return nms(boxes + (groups * span)[:, None], scores, threshold)


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
    """Greedy suppression inside each group (level or class) of each image.

    Returns:
        Rows of the ``size`` best survivors by falling score (0 where there are fewer), and which are real.
    """
    return _suppress(boxes.detach(), scores.detach(), groups, valid, threshold, size)
