"""Losses of detectors: sums over valid entries, divided by a count that processes share."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from libradet.balance import balanced_l1_loss
from libradet.models.config import BoxLossConfig


def shared_count(valid: Bool[Tensor, "*N"]) -> Float[Tensor, ""]:
    """How many are valid, averaged over all processes, at least 1.

    Gradients are averaged over processes as well, so sum / shared_count is the loss of the joint batch.
    """
    count = valid.sum().float()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(count)
        count = count / dist.get_world_size()
    return count.clamp(min=1)


def class_loss(
    logits: Float[Tensor, "B S C1"], labels: Int[Tensor, "B S"], valid: Bool[Tensor, "B S"], count: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Softmax cross entropy of the valid samples over ``count``."""
    loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    return loss.where(valid, 0).sum() / count


def objectness_loss(
    logits: Float[Tensor, "B S"], positive: Bool[Tensor, "B S"], valid: Bool[Tensor, "B S"], count: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Binary cross entropy of the valid samples over ``count``."""
    loss = F.binary_cross_entropy_with_logits(logits.float(), positive.float(), reduction="none")
    return loss.where(valid, 0).sum() / count


def box_loss(
    deltas: Float[Tensor, "B S 4"],
    targets: Float[Tensor, "B S 4"],
    positive: Bool[Tensor, "B S"],
    count: Float[Tensor, ""],
    config: BoxLossConfig,
) -> Float[Tensor, ""]:
    """Localisation loss of the positives, summed over dx, dy, dw, dh, over ``count``."""
    # Padding may hold anything; it is cut out before the loss so that no NaN comes back as a gradient.
    error = (deltas.float() - targets).where(positive[..., None], 0)
    if config.kind == "balanced_l1":
        loss = balanced_l1_loss(error, config.alpha, config.gamma, config.beta, config.variant)
    else:
        beta = config.beta if config.kind == "smooth_l1" else 0.0
        loss = F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=beta)
    return config.weight * loss.where(positive[..., None], 0).sum() / count
