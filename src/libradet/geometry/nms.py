"""Batched NMS with an output of fixed size, as one operator.

The kernel is torchvision's. The operator around it hides the data-dependent size of its output, so that a whole
training step stays one graph.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import nms

from libradet.utils.eager import is_plain_inference

DEFAULT_NMS_THRESH = 0.5
"""IoU threshold that merges detections of views or tiles for models without a configuration, such as exported ones."""


def _nms_of_batch(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, size: int
) -> tuple[Tensor, Tensor]:
    kept = torch.zeros((len(boxes), size), dtype=torch.int64, device=boxes.device)
    filled = torch.zeros((len(boxes), size), dtype=torch.bool, device=boxes.device)
    boxes, scores = boxes.float(), scores.float()
    for b, rows in enumerate(_nms_per_image(boxes, scores, groups, valid, threshold)):
        rows = rows[:size]
        kept[b, : len(rows)] = rows
        filled[b, : len(rows)] = True
    return kept, filled


def _nms_per_image(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float
) -> list[Int[Tensor, " K"]]:
    """Return the kept rows of each image by falling score.

    torchvision's kernel is quadratic and single-threaded on the CPU: there, each group of each image is processed
    separately, distributed over threads.
    """
    rows = [valid_rows.nonzero().squeeze(1) for valid_rows in valid]
    if boxes.device.type != "cpu":
        return [r[_grouped_nms(boxes[b, r], scores[b, r], groups[b, r], threshold)] for b, r in enumerate(rows)]
    parts = [(b, part) for b, r in enumerate(rows) for part in _split_by_group(r, groups[b, r])]
    candidates = [(part, boxes[b, part], scores[b, part]) for b, part in parts]
    count = torch.get_num_threads()
    kept = [part for _, part in parts]
    with ThreadPoolExecutor(count) as threads:
        # A share for each thread, because a task of its own for each of many classes costs more than its NMS.
        shares = threads.map(lambda first: _nms_of_groups(candidates[first::count], threshold), range(count))
        for first, share in enumerate(shares):
            kept[first::count] = share
    kept_per_image = []
    for b in range(len(boxes)):
        # Sorted by row first, so that of equal scores the lower row comes first, in any group.
        own = torch.cat([rows[b][:0], *(k for (image, _), k in zip(parts, kept, strict=True) if image == b)])
        own = own.sort().values
        kept_per_image.append(own[scores[b, own].argsort(descending=True, stable=True)])
    return kept_per_image


def _split_by_group(rows: Int[Tensor, " N"], groups: Int[Tensor, " N"]) -> Sequence[Int[Tensor, " _"]]:
    """Return the rows of each group, in their order."""
    groups, order = groups.sort(stable=True)
    return rows[order].split(groups.unique_consecutive(return_counts=True)[1].tolist())


@torch.inference_mode()  # new threads have gradient recording enabled
def _nms_of_groups(candidates: Sequence[tuple[Tensor, Tensor, Tensor]], threshold: float) -> list[Int[Tensor, " K"]]:
    """Return the kept rows of each group, which is its rows, boxes and scores."""
    return [rows[nms(boxes, scores, threshold)] for rows, boxes, scores in candidates]


def _grouped_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    # Offsets of 1,200 classes leave float32 coordinates no more than steps of half a pixel. MPS has no float64.
    dtype = torch.float32 if boxes.device.type == "mps" else torch.float64
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    span = boxes.amax() - boxes.amin() + 1 if len(boxes) else 1
    return nms(boxes + (groups * span)[:, None], scores, threshold)


_batched_nms = torch.library.custom_op("libradet::batched_nms", _nms_of_batch, mutates_args=())


@_batched_nms.register_fake
def _(boxes, scores, groups, valid, threshold, size):
    shape = (boxes.shape[0], size)
    return boxes.new_empty(shape, dtype=torch.int64), boxes.new_empty(shape, dtype=torch.bool)


def batched_nms(
    boxes: Float[Tensor, "B N 4"],
    scores: Float[Tensor, "B N"],
    groups: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    *,
    threshold: float,
    size: int,
) -> tuple[Int[Tensor, "B K"], Bool[Tensor, "B K"]]:
    """Apply greedy NMS inside each group (level or class) of each image.

    Args:
        valid: which candidates are used.
        threshold: IoU above which the box of lower score is removed.
        size: K, the number of output slots.

    Returns:
        Rows of the ``size`` best kept boxes by falling score (0 in empty slots), and which slots are filled.
    """
    compute = _nms_of_batch if is_plain_inference(boxes) else _batched_nms
    return compute(boxes.detach(), scores.detach(), groups, valid, threshold, size)
