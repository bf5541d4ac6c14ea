"""Sample level (paper 3.1): which candidates a loss sees.

A sampler is a priority. Each function here gives every candidate a number, -inf to what is none, and
:func:`select` takes those of highest priority. All work on whole batches, on the device, and draw their
chance from ``generator`` (or torch's global one).
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

STRETCH = 64


def select(
    priority: Float[Tensor, "B N"], count: int | Int[Tensor, " B"], size: int
) -> tuple[Int[Tensor, "B S"], Bool[Tensor, "B S"]]:
    """Per image, the ``count`` candidates of highest priority, in ``size`` fixed slots.

    Args:
        priority: -inf marks what must never be taken.
        count: how many to take, one number or one per image; at most ``size`` are.
        size: S, the number of slots.

    Returns:
        Indices into N by falling priority, and which slots are filled. Empty slots hold some valid index.
    """
    taken = min(size, priority.shape[1])
    value, index = highest(priority, taken)
    slot = torch.arange(taken, device=priority.device)
    limit = count[:, None] if isinstance(count, Tensor) else count
    filled = (value > -torch.inf) & (slot < limit)
    missing = (0, size - taken)
    return torch.nn.functional.pad(index, missing), torch.nn.functional.pad(filled, missing, value=False)


def highest(priority: Float[Tensor, "B N"], count: int) -> tuple[Float[Tensor, "B count"], Int[Tensor, "B count"]]:
    """``priority.topk(count)``, in a fraction of its time where few are taken of many.

    The ``count`` largest are in those ``count`` stretches whose largest are largest: finding these takes one pass.
    """
    stretches = priority.shape[1] // STRETCH
    if stretches < 4 * count:
        return priority.topk(count, dim=1)
    split = stretches * STRETCH
    table = priority[:, :split].unflatten(1, (stretches, STRETCH))
    rows = table.amax(2).topk(count, dim=1, sorted=False).indices
    inside = torch.arange(STRETCH, device=rows.device)
    # What is left at the end is looked at, too.
    rest = torch.arange(split, priority.shape[1], device=rows.device).expand(len(rows), -1)
    places = torch.cat([(rows[..., None] * STRETCH + inside).flatten(1), rest], 1)
    value, at = priority.gather(1, places).topk(count, dim=1)
    return value, places.gather(1, at)


def random_priority(candidates: Bool[Tensor, "B N"], generator: Generator | None = None) -> Float[Tensor, "B N"]:
    """Every candidate alike: p = N/M (paper 3.1)."""
    return _chance(candidates, generator).masked_fill(~candidates, -torch.inf)


def hardest_priority(candidates: Bool[Tensor, "B N"], loss: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """Largest loss first: online hard example mining (Shrivastava et al., CVPR 2016)."""
    return loss.detach().float().masked_fill(~candidates, -torch.inf)


def iou_balanced_priority(
    candidates: Bool[Tensor, "B N"],
    iou: Float[Tensor, "B N"],
    count: int | Int[Tensor, " B"],
    num_bins: int = 3,
    max_iou: float = 0.5,
    bins: Literal["paper", "mmdet"] = "paper",
    generator: Generator | None = None,
    size: int | None = None,
) -> Float[Tensor, "B N"]:
    """Equally many from each IoU bin: p_k = N/K * 1/M_k (paper 3.1, equation 1).

    Candidates whose rank inside their bin is below the bin's share come first, random inside; what a
    short bin leaves open is filled at random from the rest.

    Args:
        candidates: the negatives.
        iou: largest IoU of every candidate with a ground truth.
        count: N, how many will be taken. What K does not divide goes to bins drawn at random.
        num_bins: K.
        max_iou: upper end of the interval that is split evenly: the negatives' IoU threshold.
        bins: ``"paper"`` splits [0, ``max_iou``). ``"mmdet"`` does what mmdetection's sampler does from
            its second call on: splits up to the largest IoU of all candidates, negative or not, gives
            floor(N/K) to each bin, and takes boxes with IoU = 0 only to fill what is left. Entries that
            are no candidates have to carry their IoU for that.
        size: no ``count`` is larger; by default the number itself, or N.
    """
    size = size or (iou.shape[1] if isinstance(count, Tensor) else count)
    count = count if isinstance(count, Tensor) else torch.full_like(iou[:, 0], count, dtype=torch.int64)
    share = (count // num_bins)[:, None].expand(-1, num_bins)
    if bins == "paper":
        upper, fill, binned = iou.new_full((len(iou), 1), max_iou), candidates, candidates
        share = share + _chance(share, generator).argsort(1).argsort(1).lt((count % num_bins)[:, None])
    else:
        upper, fill = iou.amax(dim=1, keepdim=True), candidates & (iou > 0)
        binned = fill & (iou < upper)
    # Arithmetic with 0 and 1 in place of masks: on a CPU those take several times as long.
    key = _chance(candidates, generator)
    which = (iou * (num_bins / upper.clamp(min=1e-6))).floor_().clamp_(0, num_bins - 1)
    which = torch.where(binned, which, num_bins + 1.0)
    priority = key if bins == "paper" else key + fill
    for k in range(num_bins):
        apart = (which - k).abs_()
        value, index = highest(torch.add(key, apart, alpha=-2), min(-(-size // num_bins), iou.shape[1]))
        taken = (value >= 0) & (torch.arange(value.shape[1], device=iou.device) < share[:, k, None])
        # What a bin leaves over are its smallest keys, evenly spread below the last one taken: stretched to 0..1 again
        # they are as good a chance as any other bin's.
        last = torch.nn.functional.pad(torch.where(taken, value, 1.0), (0, 1), value=1.0).amin(1, keepdim=True)
        inside = apart.neg_().add_(1).clamp_(min=0)
        priority = torch.addcmul(priority, inside.mul_(key), 1 / last.clamp(min=1e-6) - 1)
        priority.scatter_(1, index, torch.where(taken, value + 3, priority.gather(1, index)))
    return torch.where(candidates, priority, -torch.inf)


def instance_balanced_priority(
    candidates: Bool[Tensor, "B N"],
    gt: Int[Tensor, "B N"],
    num_gt: int,
    generator: Generator | None = None,
) -> Float[Tensor, "B N"]:
    """Equally many for each ground truth (paper 3.1, "Pos Balance").

    One of every ground truth comes before a second of any, and so on; random inside. So whatever number
    is taken, two ground truths differ by at most one unless one has no more candidates.

    Args:
        candidates: the positives.
        gt: row of the ground truth that each positive stands for.
        num_gt: G, the (padded) number of ground truths.
    """
    rank = _rank_in_group(gt.clamp(min=0), _chance(candidates, generator), candidates, num_gt)
    # A second chance, as the r-th smallest key of a ground truth is the smaller the more candidates it has.
    return (_chance(candidates, generator) - rank).masked_fill(~candidates, -torch.inf)


def _chance(like: Tensor, generator: Generator | None) -> Float[Tensor, "B N"]:
    device = like.device if generator is None else generator.device
    return torch.rand(like.shape, generator=generator, device=device).to(like.device)


def _rank_in_group(
    group: Int[Tensor, "B N"], key: Float[Tensor, "B N"], member: Bool[Tensor, "B N"], num_groups: int
) -> Int[Tensor, "B N"]:
    """Rank by rising ``key`` (0..1) among the members of the same group; the ranks of others mean nothing."""
    group = torch.where(member, group, num_groups)
    order = key.argsort(dim=1)
    order = order.gather(1, group.gather(1, order).argsort(dim=1, stable=True))
    ordered = group.gather(1, order)
    size = torch.zeros(len(group), num_groups + 1, dtype=torch.int64, device=group.device)
    size.scatter_add_(1, group, torch.ones_like(group))
    start = size.cumsum(1) - size
    position = torch.arange(group.shape[1], device=group.device).expand_as(group)
    return torch.empty_like(group).scatter_(1, order, position - start.gather(1, ordered))
