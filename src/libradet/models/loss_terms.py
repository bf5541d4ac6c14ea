"""Losses of detectors: sums over valid entries, divided by a count that processes share."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from libradet.balance import balanced_l1_loss
from libradet.geometry.boxes import area, decode, encode
from libradet.models.config import BoxLossConfig, FocalConfig, IoUConfig


def shared_count(valid: Bool[Tensor, "*N"]) -> Float[Tensor, ""]:
    """How many are valid in all processes together, at least 1, over the number of processes.

    Gradients are averaged over processes as well, so sum / shared_count is the loss of the joint batch.
    """
    count = valid.sum().float()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(count)
        return count.clamp(min=1) / dist.get_world_size()
    return count.clamp(min=1)


def class_loss(
    logits: Float[Tensor, "B S C1"],
    labels: Int[Tensor, "B S"],
    valid: Bool[Tensor, "B S"],
    count: Float[Tensor, ""],
    focal: FocalConfig | None = None,
) -> Float[Tensor, ""]:
    """Softmax cross entropy of the valid samples over ``count``.

    With ``focal``, samples of probability p in their class weigh (1 - p)^γ, times α (background: 1 - α).
    """
    loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    if focal is not None:
        balance = torch.where(labels < logits.shape[2] - 1, focal.alpha, 1 - focal.alpha)
        loss = balance * (1 - (-loss).exp()).pow(focal.gamma) * loss
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
    """Localization loss of the positives, summed over dx, dy, dw, dh, over ``count``."""
    # Padding may hold anything; it is cut out before the loss so that no NaN comes back as a gradient.
    error = (deltas.float() - targets).where(positive[..., None], 0)
    if config.kind == "balanced_l1":
        loss = balanced_l1_loss(error, config.alpha, config.gamma, config.beta, config.variant)
    else:
        beta = config.beta if config.kind == "smooth_l1" else 0.0
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
    """Loss of the positives, over ``count``: ``deltas`` should turn ``boxes`` into ``gt_boxes``.

    Args:
        std: what deltas are divided by.
    """
    if config.kind in IOU_LOSSES:
        # Neither the loss of padding nor its gradient may be NaN.
        unit = torch.cat([torch.zeros_like(boxes[..., :2]), torch.ones_like(boxes[..., :2])], dim=-1)
        predicted = decode(boxes, deltas.float(), std).clamp(-FARTHEST, FARTHEST).where(positive[..., None], unit)
        loss = IOU_LOSSES[config.kind](predicted, gt_boxes.where(positive[..., None], unit))
        return config.weight * loss.where(positive, 0).sum() / count
    with torch.no_grad():
        targets = encode(boxes, gt_boxes, std)
    return box_loss(deltas, targets, positive, count, config)


def iou_loss(a: Float[Tensor, "*N 4"], b: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N"]:
    """1 - IoU of each pair of boxes."""
    left_top, right_bottom = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    shared = area(torch.cat([left_top, right_bottom], dim=-1))
    return 1 - shared / (area(a) + area(b) - shared).clamp(min=1e-7)


def iou_prediction_loss(
    predicted: Float[Tensor, "B S"],
    boxes: Float[Tensor, "B S 4"],
    gt_boxes: Float[Tensor, "B S 4"],
    positive: Bool[Tensor, "B S"],
    config: IoUConfig,
) -> Float[Tensor, ""]:
    """Smooth L1 of the positives' ``predicted`` IoU, -1..1 for 0..1, mean over positives (IoU-Net, 3.1).

    Args:
        boxes: whose IoU with ``gt_boxes`` is to be predicted; no gradient goes to them.
    """
    with torch.no_grad():
        target = (1 - 2 * iou_loss(boxes, gt_boxes)).where(positive, 0)
    loss = F.smooth_l1_loss(predicted.float().where(positive, 0), target, reduction="none", beta=config.beta)
    return config.weight * loss.sum() / shared_count(positive)


def diou_loss(a: Float[Tensor, "*N 4"], b: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N"]:
    """1 - IoU + squared distance of the centers over the squared diagonal around both (Zheng et al., AAAI 2020)."""
    around = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    apart = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    return iou_loss(a, b) + apart.square().sum(-1) / around.square().sum(-1).clamp(min=1e-7)


def ciou_loss(a: Float[Tensor, "*N 4"], b: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N"]:
    """DIoU and, weighted as in that paper, the difference of the aspect ratios.

    torchvision's two are the same, and NaN, or their gradients are, for boxes without width or height.
    """
    distance = diou_loss(a, b)
    (w, h), (other_w, other_h) = ((box[..., 2:] - box[..., :2]).clamp(min=1e-3).unbind(-1) for box in (a, b))
    aspect = (torch.atan2(other_w, other_h) - torch.atan2(w, h)).square() * (4 / math.pi**2)
    with torch.no_grad():
        weight = aspect / (iou_loss(a, b) + aspect).clamp(min=1e-7)
    return distance + weight * aspect


FARTHEST = 1e6
"""Pixels: where deltas explode, predicted boxes stay within what can be squared."""
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
    """Focal loss of the valid candidates over ``count``; label C (or any above) is background."""
    classes = torch.arange(logits.shape[2], device=logits.device)
    targets = (labels[..., None] == classes).float()
    loss = sigmoid_focal_loss(logits.float(), targets, config.alpha, config.gamma)
    return loss.where(valid[..., None], 0).sum() / count
