"""Sample level (paper 3.1): samplers of the candidates that enter a loss.

A sampler is a priority. Each function here computes a priority for every candidate, -inf for entries that are none, and
:func:`select` selects those of highest priority. All of them work on whole batches, on the device, and draw random
numbers from ``generator`` (or torch's global one).
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

BLOCK_SIZE = 64


def select(
    priority: Float[Tensor, "B N"], count: int | Int[Tensor, " B"], size: int
) -> tuple[Int[Tensor, "B S"], Bool[Tensor, "B S"]]:
    """Select the ``count`` candidates of highest priority of each image, in ``size`` fixed slots.

    Args:
        priority: -inf for entries that must not be selected.
        count: number of candidates to select, of all images or of each; at most ``size`` are selected.
        size: S, the number of slots.

    Returns:
        Indices into N by falling priority, and which slots are filled. Empty slots hold some valid index.
    """
    selected = min(size, priority.shape[1])
    value, index = fast_topk(priority, selected)
    slot = torch.arange(selected, device=priority.device)
    limit = count[:, None] if isinstance(count, Tensor) else count
    filled = (value > -torch.inf) & (slot < limit)
    missing = (0, size - selected)
    return torch.nn.functional.pad(index, missing), torch.nn.functional.pad(filled, missing, value=False)


def fast_topk(priority: Float[Tensor, "B N"], count: int) -> tuple[Float[Tensor, "B count"], Int[Tensor, "B count"]]:
    """Return ``priority.topk(count)``, in a fraction of its time where ``count`` is small compared with N.

    The ``count`` largest entries are in the ``count`` blocks of largest maximum, which one pass determines.
    """
    blocks = priority.shape[1] // BLOCK_SIZE
    if blocks < 4 * count:
        return priority.topk(count, dim=1)
    split = blocks * BLOCK_SIZE
    table = priority[:, :split].unflatten(1, (blocks, BLOCK_SIZE))
    rows = table.amax(2).topk(count, dim=1, sorted=False).indices
    inside = torch.arange(BLOCK_SIZE, device=rows.device)
    # Entries after the last whole block are candidates, too.
    rest = torch.arange(split, priority.shape[1], device=rows.device).expand(len(rows), -1)
    positions = torch.cat([(rows[..., None] * BLOCK_SIZE + inside).flatten(1), rest], 1)
    value, at = priority.gather(1, positions).topk(count, dim=1)
    return value, positions.gather(1, at)


def random_priority(candidates: Bool[Tensor, "B N"], generator: Generator | None = None) -> Float[Tensor, "B N"]:
    """Return random priorities: all candidates have the same probability p = N/M (paper 3.1)."""
    return _random_like(candidates, generator).masked_fill(~candidates, -torch.inf)


def ohem_priority(candidates: Bool[Tensor, "B N"], loss: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """Return priorities by falling loss: online hard example mining (Shrivastava et al., CVPR 2016)."""
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
    """Return priorities that select equally many candidates of each IoU bin: p_k = N/K * 1/M_k (paper 3.1, equation 1).

    Candidates whose random rank inside their bin is below the bin's share come first; slots that a bin with too few
    candidates leaves empty are filled at random from the rest.

    Args:
        candidates: the negatives.
        iou: largest IoU of every candidate with a ground truth.
        count: N, the number of candidates to select. The remainder of N/K is assigned to bins at random.
        num_bins: K.
        max_iou: upper end of the interval that is split evenly: the IoU threshold of negatives.
        bins: ``"paper"`` splits [0, ``max_iou``). ``"mmdet"`` is what mmdetection's sampler does from its second call
            on: it splits up to the largest IoU of all candidates, negative or not, selects floor(N/K) of each bin, and
            uses boxes of IoU 0 only to fill the remaining slots. It needs the IoU of entries that are not candidates.
        size: upper limit of ``count``; by default ``count`` itself if it is a number, otherwise the length of ``iou``.
    """
    size = size or (iou.shape[1] if isinstance(count, Tensor) else count)
    count = count if isinstance(count, Tensor) else torch.full_like(iou[:, 0], count, dtype=torch.int64)
    share = (count // num_bins)[:, None].expand(-1, num_bins)
    if bins == "paper":
        upper, fill, binned = iou.new_full((len(iou), 1), max_iou), candidates, candidates
        share = share + _random_like(share, generator).argsort(1).argsort(1).lt((count % num_bins)[:, None])
    else:
        upper, fill = iou.amax(dim=1, keepdim=True), candidates & (iou > 0)
        binned = fill & (iou < upper)
    # Arithmetic with 0 and 1 instead of masks, which are several times slower on the CPU.
    key = _random_like(candidates, generator)
    bin_index = (iou * (num_bins / upper.clamp(min=1e-6))).floor_().clamp_(0, num_bins - 1)
    bin_index = torch.where(binned, bin_index, num_bins + 1.0)
    priority = key if bins == "paper" else key + fill
    for k in range(num_bins):
        distance = (bin_index - k).abs_()
        value, index = fast_topk(torch.add(key, distance, alpha=-2), min(-(-size // num_bins), iou.shape[1]))
        selected = (value >= 0) & (torch.arange(value.shape[1], device=iou.device) < share[:, k, None])
        # The candidates of a bin that are not selected have its smallest keys, uniform below the last selected one:
        # rescaled to 0..1, they are comparable with the keys of other bins.
        last = torch.nn.functional.pad(torch.where(selected, value, 1.0), (0, 1), value=1.0).amin(1, keepdim=True)
        inside = distance.neg_().add_(1).clamp_(min=0)
        priority = torch.addcmul(priority, inside.mul_(key), 1 / last.clamp(min=1e-6) - 1)
        priority.scatter_(1, index, torch.where(selected, value + 3, priority.gather(1, index)))
    return torch.where(candidates, priority, -torch.inf)


def instance_balanced_priority(
    candidates: Bool[Tensor, "B N"],
    gt: Int[Tensor, "B N"],
    num_gt: int,
    generator: Generator | None = None,
) -> Float[Tensor, "B N"]:
    """Return priorities that select equally many candidates for each ground truth (paper 3.1, "Pos Balance").

    One candidate of every ground truth comes before the second of any, and so on, in random order. For any number of
    selected candidates, two ground truths differ by at most one, unless one has no more candidates.

    Args:
        candidates: the positives.
        gt: row of the ground truth that each positive is matched to.
        num_gt: G, the (padded) number of ground truths.
    """
    rank = _rank_in_group(gt.clamp(min=0), _random_like(candidates, generator), candidates, num_gt)
    # A second random key: the r-th smallest key of a ground truth is smaller the more candidates it has.
    return (_random_like(candidates, generator) - rank).masked_fill(~candidates, -torch.inf)


def _random_like(like: Tensor, generator: Generator | None) -> Float[Tensor, "B N"]:
    device = like.device if generator is None else generator.device
    return torch.rand(like.shape, generator=generator, device=device).to(like.device)


def _rank_in_group(
    group: Int[Tensor, "B N"], key: Float[Tensor, "B N"], member: Bool[Tensor, "B N"], num_groups: int
) -> Int[Tensor, "B N"]:
    """Return the rank by rising ``key`` (0..1) among the members of each group; undefined for other entries."""
    group = torch.where(member, group, num_groups)
    order = key.argsort(dim=1)
    order = order.gather(1, group.gather(1, order).argsort(dim=1, stable=True))
    ordered = group.gather(1, order)
    size = torch.zeros(len(group), num_groups + 1, dtype=torch.int64, device=group.device)
    size.scatter_add_(1, group, torch.ones_like(group))
    start = size.cumsum(1) - size
    position = torch.arange(group.shape[1], device=group.device).expand_as(group)
    return torch.empty_like(group).scatter_(1, order, position - start.gather(1, ordered))
