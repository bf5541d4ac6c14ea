"""Sample level (paper 3.1): samplers of the candidates that enter a loss.

A sampler is a priority. Each function here computes a priority for every candidate, -inf for entries that are none, and
:func:`select` selects those of highest priority. All of them work on whole batches, on the device, and draw random
numbers from ``generator`` (or torch's global one).
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from libradet.balance.iou_bins import bins_of_iou, prioritize_bins, prioritize_sparse_bins
from libradet.balance.topk import fast_topk
from libradet.utils.eager import is_eager_on_cpu

MIN_FOR_SPARSE = 16384
"""Number of candidates from which on, in eager mode on a CPU, the first IoU bin is handled at once: it holds most."""

_PRIORITY_RANGE = 5.0
"""Upper limit of the priorities of :func:`iou_balanced_priority`."""


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
    min_iou: float = 0.0,
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
        min_iou: lower end of the interval that is split evenly. Candidates below it are none here.
    """
    size = size or (iou.shape[1] if isinstance(count, Tensor) else count)
    count = count if isinstance(count, Tensor) else torch.full_like(iou[:, 0], count, dtype=torch.int64)
    share = (count // num_bins)[:, None].expand(-1, num_bins)
    if bins == "paper":
        share = share + _random_like(share, generator).argsort(1).argsort(1).lt((count % num_bins)[:, None])
    key = _random_like(candidates, generator)
    largest = min(-(-size // num_bins), iou.shape[1])
    if bins == "paper" and min_iou == 0 and iou.shape[1] >= MIN_FOR_SPARSE and is_eager_on_cpu(iou):
        priority = prioritize_sparse_bins(key, candidates, iou, share, largest, max_iou)
        if priority is not None:
            return priority
    if bins == "paper":
        upper, binned, priority = iou.new_full((len(iou), 1), max_iou), candidates, key
    else:
        upper, binned = iou.amax(dim=1, keepdim=True), candidates & (iou > 0)
        priority, binned = key + binned, binned & (iou < upper)
    bin_index = bins_of_iou(iou, num_bins, upper, min_iou)
    bin_index = torch.where(binned & (iou >= min_iou), bin_index, num_bins + 1.0)
    priority = prioritize_bins(key, priority, bin_index, share, largest).priority
    return torch.where(candidates, priority, -torch.inf)


def background_share_priority(
    candidates: Bool[Tensor, "B N"],
    iou: Float[Tensor, "B N"],
    count: Int[Tensor, " B"],
    size: int,
    floor_thr: float,
    floor_fraction: float,
    num_bins: int = 3,
    max_iou: float = 0.5,
    bins: Literal["paper", "mmdet"] = "paper",
    generator: Generator | None = None,
    score: Float[Tensor, "B N"] | None = None,
) -> Float[Tensor, "B N"]:
    """Return priorities that keep a share of the negatives for the background, as mmdetection's sampler does.

    Of ``count``, the share ``floor_fraction`` is drawn at random from candidates of an IoU below ``floor_thr`` (of
    IoU 0 if it is 0), the rest IoU-balanced from the others. If one side has too few, the other fills its slots.
    See :func:`iou_balanced_priority` for the other arguments.

    Args:
        score: objectness of each candidate, 0..1. With it, equally many candidates below ``floor_thr`` are drawn from
            ``num_bins`` equal intervals of the score: background that resembles objects is seldom, so random draws
            hardly contain it.
    """
    below = candidates & ((iou < floor_thr) if floor_thr > 0 else (iou == 0))
    above = candidates & ~below
    num_balanced = (count * (1 - floor_fraction)).long()
    balanced = iou_balanced_priority(
        above, iou, num_balanced, num_bins, max_iou, bins, generator, size=size, min_iou=floor_thr
    )
    index, filled = select(balanced, num_balanced, size)
    chosen = index.new_zeros(iou.shape).scatter_add(1, index, filled.long()) > 0
    key = random_priority(candidates, generator)
    if score is not None:
        num_below = count - num_balanced
        by_score = iou_balanced_priority(below, score, num_below, num_bins, 1.0, generator=generator, size=size)
        key = torch.where(below, by_score / _PRIORITY_RANGE, key)
    # Slots are filled in this order: balanced, floor, the rest. Keys are below 1.
    return key + 2.0 * chosen + 1.0 * below


def stratification_weights(
    sample_bins: Int[Tensor, "B S"],
    samples: Bool[Tensor, "B S"],
    candidate_bins: Int[Tensor, "B N"],
    candidates: Bool[Tensor, "B N"],
    num_bins: int,
    exponent: float,
) -> Float[Tensor, "B S"]:
    """Return weights of samples, whose bins (strata) were not sampled in proportion to their candidates.

    A sample of bin k weighs ((M_k / M) / (S_k / S))^``exponent``, scaled to a mean of 1 over the samples of its image:
    with an exponent of 1, the mean of a weighted loss estimates its mean over all candidates (post-stratification).

    Args:
        samples: entries that are samples; others get weight 1.
        candidates: entries that could have been sampled.
    """
    num_candidates = _count_bins(candidate_bins, candidates, num_bins)
    num_samples = _count_bins(sample_bins, samples, num_bins)
    ratio = num_candidates / num_samples.clamp(min=1)
    weight = ratio.clamp(min=1e-12).pow(exponent).gather(1, sample_bins).where(samples, 0)
    scale = samples.sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1e-12)
    return (weight * scale).where(samples, 1)


def _count_bins(bins: Int[Tensor, "B N"], members: Bool[Tensor, "B N"], num_bins: int) -> Float[Tensor, "B {num_bins}"]:
    counts = torch.zeros(len(bins), num_bins, device=bins.device)
    return counts.scatter_add(1, bins, members.float())


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
