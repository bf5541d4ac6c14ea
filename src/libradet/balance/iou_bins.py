"""Priorities of candidates in IoU bins: equally many of each bin come first."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from libradet.balance.topk import block_maxima, entries_of_blocks, fast_topk

BLOCK_SIZE = 32
MAX_NEAR_SHARE = 1 / 3
"""Share of blocks up to which :func:`prioritize_sparse_bins` pays."""


class BinPriority(NamedTuple):
    """Attributes:
    priority: of each candidate.
    keys: the largest ones of each bin, falling; negative where it has no more.
    scale: factor minus 1 by which the other keys of each bin are rescaled.
    """

    priority: Float[Tensor, "B N"]
    keys: Float[Tensor, "B K largest"]
    scale: Float[Tensor, "B K 1"]


def bins_of_iou(
    iou: Float[Tensor, "B N"], num_bins: int, max_iou: float | Float[Tensor, "B 1"], min_iou: float = 0.0
) -> Float[Tensor, "B N"]:
    """Return the bin 0..K-1 of each IoU, of K equal intervals of [``min_iou``, ``max_iou``)."""
    upper = torch.as_tensor(max_iou, device=iou.device)
    return ((iou - min_iou) * (num_bins / (upper - min_iou).clamp(min=1e-6))).floor_().clamp_(0, num_bins - 1)


def prioritize_bins(
    key: Float[Tensor, "B N"],
    priority: Float[Tensor, "B N"],
    bin_index: Float[Tensor, "B N"],
    share: Int[Tensor, "B K"],
    largest: int,
) -> BinPriority:
    """Raise the ``share`` candidates of largest key of each bin above all others.

    Args:
        key: random, 0..1; negative for entries that are no candidates.
        priority: of the candidates without bins.
        bin_index: 0..K-1, K+1 for entries in no bin.
        largest: upper limit of ``share``.
    """
    (batch, number), num_bins = key.shape, share.shape[1]
    slots = torch.arange(max(largest, num_bins), device=key.device)
    # Arithmetic with 0 and 1 instead of masks, which are several times slower on the CPU.
    distance = (bin_index[:, None] - slots[:num_bins, None]).abs_()
    value, index = fast_topk(torch.add(key[:, None], distance, alpha=-2).flatten(0, 1), min(largest, number))
    value = value.unflatten(0, (batch, num_bins))
    selected = (value >= 0) & (slots[: value.shape[2]] < share[..., None])
    # The candidates of a bin that are not selected have its smallest keys, uniform below the last selected one:
    # rescaled to 0..1, they are comparable with the keys of other bins.
    last = F.pad(torch.where(selected, value, 1.0), (0, 1), value=1.0).amin(2, keepdim=True)
    scale = 1 / last.clamp(min=1e-6) - 1
    inside = distance.neg_().add_(1).clamp_(min=0)
    # Rescaled keys of selected candidates, which have no upper limit, are below those that they get.
    priority = torch.addcmul(priority, key, inside.mul_(scale).sum(1)).clamp_(max=2.5)
    raised = torch.where(selected, value + 3, -torch.inf).flatten(1)
    priority.scatter_reduce_(1, index.view(batch, -1), raised, "amax")
    return BinPriority(priority, value, scale)


def prioritize_sparse_bins(
    key: Float[Tensor, "B N"],
    candidates: Bool[Tensor, "B N"],
    iou: Float[Tensor, "B N"],
    share: Int[Tensor, "B K"],
    largest: int,
    max_iou: float,
) -> Float[Tensor, "B N"] | None:
    """Return the priorities of :func:`prioritize_bins`, bit for bit, where few candidates are outside the first bin.

    Of neighboring anchors, most have only neighbors of the first bin as well. Those that have others in their block,
    and the blocks of largest keys, get their priorities together; the rest is rescaled at once. How many these are
    depends on data, so this is no part of a compiled graph.

    Args:
        max_iou: upper end of the last bin; the first starts at 0.

    Returns:
        -inf for entries that are no candidates. None where too many blocks are near objects, or where equal keys leave
        open which of them a share includes.
    """
    num_bins, number = share.shape[1], iou.shape[1]
    # Lower than the end of the first bin by more than any rounding.
    near = block_maxima(iou, BLOCK_SIZE) >= max(max_iou, 1e-6) / num_bins - 1e-5
    num_near = int(near.sum(1).max())
    if num_near + largest + 1 > MAX_NEAR_SHARE * near.shape[1]:
        return None
    # As in prioritize_bins, arithmetic in place of masks: entries that are no candidates are negative.
    priority = (~candidates).view(torch.uint8).to(key.dtype)
    torch.add(key, priority, alpha=-2, out=priority)
    near = near.float().topk(num_near, dim=1, sorted=False).indices
    # One more than a share can include: if its key is that of the last one included, the choice is open.
    maxima = block_maxima(priority, BLOCK_SIZE).scatter_(1, near, -3)
    top = maxima.topk(largest + 1, dim=1, sorted=False).indices
    positions = entries_of_blocks(torch.cat([near, top], 1), BLOCK_SIZE, number)
    few_keys, few_iou = priority.gather(1, positions), iou.gather(1, positions)
    few, share = F.threshold(few_keys, -0.5, -torch.inf), share.clamp(max=largest)
    raised = prioritize_bins(few_keys, few, bins_of_iou(few_iou, num_bins, max_iou), share, largest + 1)
    last = (share - 1).clamp(min=0)[..., None]
    included, next_key = raised.keys.gather(2, torch.cat([last, last + 1], 2)).unbind(2)
    if ((included == next_key) & (next_key >= 0) & (share > 0)).any():
        return None
    F.threshold(priority, -0.5, -torch.inf, inplace=True)
    return priority.addcmul_(key, raised.scale[:, 0]).scatter_(1, positions, raised.priority)
