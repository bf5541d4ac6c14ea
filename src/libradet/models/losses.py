"""Losses of detectors: sums over valid entries, divided by their number across all ranks."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

from libradet.balance import balanced_l1_loss
from libradet.geometry.boxes import box_area, decode, encode
from libradet.models.config import BoxLossConfig, FocalConfig, IoUConfig
from libradet.models.ops import focal_sum
from libradet.utils.distributed import world_size


def num_samples_across_ranks(valid: Bool[Tensor, "*N"]) -> Float[Tensor, ""]:
    """Return the number of valid entries in all processes, at least 1, divided by the number of processes.

    Gradients are averaged over processes, so a sum of losses divided by this number is the loss of the joint batch.
    """
    count = valid.sum().float()
    num_processes = world_size()
    if num_processes > 1:
        dist.all_reduce(count)
        return count.clamp(min=1) / num_processes
    return count.clamp(min=1)


def class_loss(
    logits: Float[Tensor, "B S C1"],
    labels: Int[Tensor, "B S"],
    valid: Bool[Tensor, "B S"],
    count: Float[Tensor, ""],
    focal: FocalConfig | None = None,
    weight: Float[Tensor, "B S"] | None = None,
    class_balance: nn.Module | None = None,
) -> Float[Tensor, ""]:
    """Return the softmax cross entropy of the valid samples, times their ``weight``, divided by ``count``.

    With ``focal``, a sample of probability p in its class is weighted by (1 - p)^γ, times α (background: 1 - α).
    ``class_balance`` replaces the cross entropy, see :mod:`libradet.models.class_balance`.
    """
    flat_logits, flat_labels = logits.float().flatten(0, 1), labels.flatten()
    if class_balance is None:
        loss = F.cross_entropy(flat_logits, flat_labels, reduction="none")
    else:
        loss = class_balance(flat_logits, flat_labels, valid.flatten())
    loss = loss.view(labels.shape)
    if focal is not None:
        loss = _weight_by_focus(loss, labels < logits.shape[2] - 1, focal)
    loss = loss if weight is None else weight * loss
    return loss.where(valid, 0).sum() / count


def objectness_loss(
    logits: Float[Tensor, "B S"],
    positive: Bool[Tensor, "B S"],
    valid: Bool[Tensor, "B S"],
    count: Float[Tensor, ""],
    weight: Float[Tensor, "B S"] | None = None,
) -> Float[Tensor, ""]:
    """Return the binary cross entropy of the valid samples, times their ``weight``, divided by ``count``."""
    loss = F.binary_cross_entropy_with_logits(logits.float(), positive.float(), reduction="none")
    loss = loss if weight is None else weight * loss
    return loss.where(valid, 0).sum() / count


def box_loss(
    deltas: Float[Tensor, "B S 4"],
    targets: Float[Tensor, "B S 4"],
    positive: Bool[Tensor, "B S"],
    count: Float[Tensor, ""],
    config: BoxLossConfig,
) -> Float[Tensor, ""]:
    """Return the localization loss of the positives, summed over dx, dy, dw and dh, divided by ``count``."""
    # Padding may hold any value; it is masked before the loss, so that no NaN reaches the gradient.
    error = (deltas.float() - targets).where(positive[..., None], 0)
    if config.type == "balanced_l1":
        loss = balanced_l1_loss(error, config.alpha, config.gamma, config.beta, config.variant)
    else:
        beta = config.beta if config.type == "smooth_l1" else 0.0
        loss = F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=beta)
    return config.weight * loss.where(positive[..., None], 0).sum() / count


def localization_loss(
    deltas: Float[Tensor, "B S 4"],
    boxes: Float[Tensor, "B S 4"],
    gt_boxes: Float[Tensor, "B S 4"],
    positive: Bool[Tensor, "B S"],
    count: Float[Tensor, ""],
    config: BoxLossConfig,
    std: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> Float[Tensor, ""]:
    """Return the localization loss of the positives, divided by ``count``.

    Args:
        deltas: predicted, from ``boxes`` to ``gt_boxes``.
        std: normalization of the deltas.
    """
    if config.type in IOU_LOSSES:
        # Padding is replaced by unit boxes: neither its loss nor its gradient may be NaN.
        unit = torch.cat([torch.zeros_like(boxes[..., :2]), torch.ones_like(boxes[..., :2])], dim=-1)
        predicted = decode(boxes, deltas.float(), std).clamp(-MAX_COORD, MAX_COORD).where(positive[..., None], unit)
        loss = IOU_LOSSES[config.type](predicted, gt_boxes.where(positive[..., None], unit))
        return config.weight * loss.where(positive, 0).sum() / count
    with torch.no_grad():
        targets = encode(boxes, gt_boxes, std)
    return box_loss(deltas, targets, positive, count, config)


def iou_loss(a: Float[Tensor, "*N 4"], b: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N"]:
    """Return 1 - IoU of each pair of boxes."""
    left_top, right_bottom = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    shared = box_area(torch.cat([left_top, right_bottom], dim=-1))
    return 1 - shared / (box_area(a) + box_area(b) - shared).clamp(min=1e-7)


def iou_prediction_loss(
    predicted: Float[Tensor, "B S"],
    boxes: Float[Tensor, "B S 4"],
    gt_boxes: Float[Tensor, "B S 4"],
    positive: Bool[Tensor, "B S"],
    config: IoUConfig,
) -> Float[Tensor, ""]:
    """Return the mean smooth L1 loss of the positives' ``predicted`` IoU, -1..1 for 0..1 (IoU-Net, 3.1).

    Args:
        boxes: whose IoU with ``gt_boxes`` is the target; they receive no gradient.
    """
    with torch.no_grad():
        target = (1 - 2 * iou_loss(boxes, gt_boxes)).where(positive, 0)
    loss = F.smooth_l1_loss(predicted.float().where(positive, 0), target, reduction="none", beta=config.beta)
    return config.weight * loss.sum() / num_samples_across_ranks(positive)


def diou_loss(a: Float[Tensor, "*N 4"], b: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N"]:
    """Return the DIoU loss (Zheng et al., AAAI 2020).

    1 - IoU + squared distance of the centers over the squared diagonal of the enclosing box.
    """
    around = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    apart = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    return iou_loss(a, b) + apart.square().sum(-1) / around.square().sum(-1).clamp(min=1e-7)


def ciou_loss(a: Float[Tensor, "*N 4"], b: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N"]:
    """Return the CIoU loss: DIoU and the difference of the aspect ratios, weighted as in that paper.

    torchvision's DIoU and CIoU losses are the same, except that they, or their gradients, are NaN for boxes without
    width or height.
    """
    distance = diou_loss(a, b)
    (w, h), (other_w, other_h) = ((box[..., 2:] - box[..., :2]).clamp(min=1e-3).unbind(-1) for box in (a, b))
    aspect = (torch.atan2(other_w, other_h) - torch.atan2(w, h)).square() * (4 / math.pi**2)
    with torch.no_grad():
        weight = aspect / (iou_loss(a, b) + aspect).clamp(min=1e-7)
    return distance + weight * aspect


MAX_COORD = 1e6
"""Upper limit of decoded coordinates, in pixels: keeps squares of diverging predictions finite."""
IOU_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "iou": iou_loss,
    "giou": generalized_box_iou_loss,
    "diou": diou_loss,
    "ciou": ciou_loss,
}


def focal_loss(
    logits: Float[Tensor, "B N C"],
    labels: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    count: Float[Tensor, ""],
    config: FocalConfig,
) -> Float[Tensor, ""]:
    """Return the focal loss of the valid candidates, divided by ``count``; label C (or any above) is background."""
    if focal_sum.is_supported(logits):
        return focal_sum.focal_sum(logits.float(), labels, valid, config.alpha, config.gamma) / count
    loss = focal_losses(logits, labels, config)
    return loss.where(valid[..., None], 0).sum() / count


def focal_losses(
    logits: Float[Tensor, "B N C"], labels: Int[Tensor, "B N"], config: FocalConfig
) -> Float[Tensor, "B N C"]:
    """Return the focal loss of each candidate and class: of sigmoids, each class against all others.

    It is torchvision's ``sigmoid_focal_loss``, whose gradient is NaN for γ between 0 and 1 where a prediction is right
    and certain.
    """
    is_class = labels[..., None] == torch.arange(logits.shape[2], device=logits.device)
    logits = logits.float()
    # More exact than binary_cross_entropy_with_logits, which subtracts numbers of similar size.
    cross_entropy = F.softplus(torch.where(is_class, -logits, logits))
    return _weight_by_focus(cross_entropy, is_class, config)


def _weight_by_focus(
    cross_entropy: Float[Tensor, "*N"], positive: Bool[Tensor, "*N"], config: FocalConfig
) -> Float[Tensor, "*N"]:
    """Return the cross entropy of labels of probability p, times (1 - p)^γ and α (negatives: 1 - α)."""
    # The derivative of a power below 1 is infinite at 0.
    error = (-torch.expm1(-cross_entropy)).clamp(min=1e-12)
    return torch.where(positive, config.alpha, 1 - config.alpha) * error.pow(config.gamma) * cross_entropy
