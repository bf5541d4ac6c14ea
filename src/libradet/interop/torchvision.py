"""torchvision's own detectors, balanced as Libra R-CNN is, in torchvision's own training loop.

:func:`balance` changes three things of a model and leaves the rest to torchvision: which proposals its second stage
is trained on, what becomes of its pyramid, and its localization loss. Images, targets, losses and detections go in
and out as before, so do their names.
"""

import warnings
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.retinanet import RetinaNetRegressionHead
from torchvision.models.detection.roi_heads import RoIHeads

from libradet.balance import BalancedFeaturePyramid, balanced_l1_loss
from libradet.errors import UserError
from libradet.geometry.matching import IGNORED, Matches, match
from libradet.models.config import BoxLossConfig, SamplingConfig
from libradet.models.loss_terms import box_loss
from libradet.models.samples import sample, take

Model = TypeVar("Model", bound=nn.Module)

SECOND_STAGE = BoxLossConfig(kind="balanced_l1", alpha=0.5, gamma=1.5, beta=1.0)
ONE_STAGE = BoxLossConfig(kind="balanced_l1", alpha=0.5, gamma=1.5, beta=0.11)


class Balanced(NamedTuple):
    """What of a model is balanced; :func:`balance` leaves it there as ``model.balanced``."""

    sampling: bool
    pyramid: bool
    loss: bool


def balance(model: Model, sampling: bool = True, pyramid: bool = True, loss: bool = True) -> Model:
    """Put a torchvision Faster R-CNN, Mask R-CNN or RetinaNet into its Libra form, in place.

    To be done once, after weights of the plain model are loaded and before anything is built upon the model: the
    optimizer, DDP or ``torch.compile`` would not know the new parameters. Its state dictionary gains those of the
    balanced pyramid, ``backbone.balance.*``, and nothing else.

    Args:
        model: whose first stage stays as it is: the paper balances the second.
        sampling: IoU-balanced negatives (K = 3 bins from 0 to the threshold of negatives) and as many positives for
            each object (paper 3.1), as many as the model's own ``fg_bg_sampler`` says. A RetinaNet has none: its
            focal loss sees all anchors, and a warning says so.
        pyramid: a balanced feature pyramid with non-local refinement (paper 3.2) behind the backbone, averaged at
            the size of the middle one of its levels (RetinaNet: the second, which has the same stride of 16). Only
            the refinement starts as the identity: each level has the average of all added to it from the first step
            on, as in the paper, so what a trained model finds changes until it is trained on. Canvases stay as they
            are; where a level is no whole multiple of another, it is pooled adaptively, as in mmdetection.
        loss: balanced L1 (paper 3.3), α = 0.5 and γ = 1.5, in place of smooth L1, L1 or GIoU. In the second stage
            β is 1, as in the paper, whose deltas are divided by 0.1, 0.1, 0.2, 0.2; torchvision multiplies them by
            10, 10, 5, 5, which is the same. (Its own smooth L1 has β = 1/9 there, and so is nearly L1.) In a
            RetinaNet, whose deltas are as they are, β is 0.11. Divided by the number of samples, as before.

    Returns:
        the model itself.

    Raises:
        UserError: another kind of model, one that is balanced already, or one whose heads are trained in a way of
            their own. Nothing has changed then.
    """
    _check(model, sampling, pyramid, loss)
    dense = isinstance(model, RetinaNet)
    if dense and sampling:
        warnings.warn("RetinaNet's focal loss sees all anchors: there is no sampling to balance", stacklevel=2)
        sampling = False
    if pyramid:
        _balance_pyramid(model, level=1 if dense else _num_levels(model) // 2)
    if dense:
        _balance_one_stage(model, loss)
    else:
        _balance_second_stage(model, sampling, loss)
    vars(model)["balanced"] = Balanced(sampling, pyramid, loss)
    return model


# Partial functions, not methods: a model with them can be copied and pickled.


def _balance_second_stage(model: Any, sampling: bool, loss: bool) -> None:
    heads = model.roi_heads
    if sampling:
        heads.select_training_samples = partial(select_balanced_samples, heads)
    if loss:
        heads.forward = partial(forward_with_balanced_loss, heads)


def _balance_one_stage(model: Any, loss: bool) -> None:
    head = model.head.regression_head
    if loss:
        head.compute_loss = partial(balanced_regression_loss, head)


def _balance_pyramid(model: Any, level: int) -> None:
    backbone = model.backbone
    block = BalancedFeaturePyramid(backbone.out_channels, level)
    backbone.balance = block.to(next(backbone.parameters())).train(model.training)
    backbone.register_forward_hook(balance_levels)


def _check(model: nn.Module, sampling: bool, pyramid: bool, loss: bool) -> None:
    """Raise UserError unless all that is asked for can be done."""
    name = type(model).__name__
    if isinstance(getattr(model, "module", None) or getattr(model, "_orig_mod", None), nn.Module):
        raise UserError(f"{name} is a wrapper: balance the model itself, and wrap it then")
    if not isinstance(model, FasterRCNN | RetinaNet):
        raise UserError(f"{name} cannot be balanced: only torchvision's FasterRCNN, MaskRCNN and RetinaNet can")
    if hasattr(model, "balanced"):
        raise UserError(f"this {name} is balanced already ({model.balanced}): once is enough")
    if pyramid and _num_levels(model) < 2:
        raise UserError(f"the backbone of this {name} has one level, no pyramid to balance: say pyramid=False")
    if isinstance(model, RetinaNet):
        _check_own(model.head.regression_head, RetinaNetRegressionHead, loss=("compute_loss", loss))
    else:
        asked = {"sampling": ("select_training_samples", sampling), "loss": ("forward", loss)}
        _check_own(model.roi_heads, RoIHeads, **asked)
        if loss and "fastrcnn_loss" not in RoIHeads.forward.__code__.co_names:
            raise UserError("this version of torchvision computes its losses in another way: say loss=False")


def _check_own(part: nn.Module, known: type[nn.Module], **asked: tuple[str, bool]) -> None:
    for option, (method, wanted) in asked.items():
        if wanted and getattr(type(part), method, None) is not getattr(known, method):
            raise UserError(
                f"{type(part).__name__} is not torchvision's {known.__name__} and has a {method} of its own, "
                f"which balancing would replace: say {option}=False"
            )


def _num_levels(model: Any) -> int:
    stage: Any = model if isinstance(model, RetinaNet) else model.rpn
    return len(stage.anchor_generator.sizes)


def balance_levels(backbone: Any, _: tuple, features: OrderedDict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Forward hook of a backbone: its levels, balanced, under their names."""
    return OrderedDict(zip(features, backbone.balance(list(features.values())), strict=True))


def select_balanced_samples(
    heads: RoIHeads, proposals: Sequence[Float[Tensor, "_ 4"]], targets: Sequence[dict[str, Tensor]]
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """``RoIHeads.select_training_samples``, balanced: for each image, its S samples.

    Returns:
        boxes [S, 4]; the row of the object that each stands for (0 for negatives); its label, 0 for background;
        and the deltas that turn it into its object, which mean nothing for negatives.
    """
    heads.check_targets(targets)
    boxes = [t["boxes"].to(proposals[0].dtype) for t in targets]
    listed = heads.add_gt_proposals(proposals, boxes)
    candidates, gt_boxes = pad_sequence(listed, batch_first=True), _with_spare_row(boxes)
    matches = match(
        candidates,
        gt_boxes,
        _first(boxes, gt_boxes),
        positive=heads.proposal_matcher.high_threshold,
        negative=heads.proposal_matcher.low_threshold,
    )
    matches = Matches(matches.gt.where(_first(listed, candidates), IGNORED), matches.iou)
    config = SamplingConfig(
        size=heads.fg_bg_sampler.batch_size_per_image,
        positive_fraction=heads.fg_bg_sampler.positive_fraction,
        positives="instance_balanced",
        negatives="iou_balanced",
    )
    samples = sample(matches, gt_boxes.shape[1], config, heads.proposal_matcher.low_threshold)
    gt_labels = _with_spare_row([t["labels"] for t in targets])
    gt = take(matches.gt, samples.index).clamp(min=0)
    labels = take(gt_labels, gt).where(samples.positive, 0)
    # The filled slots are the first ones.
    counts = samples.valid.sum(1).tolist()
    chosen, rows, labels, objects = (
        [values[:count] for values, count in zip(table, counts, strict=True)]
        for table in (take(candidates, samples.index), gt, labels, take(gt_boxes, gt))
    )
    return chosen, rows, labels, list(heads.box_coder.encode(objects, chosen))


def _first(rows: Sequence[Tensor], padded: Tensor) -> Bool[Tensor, "B N"]:
    """Which rows of ``padded`` are those of each image."""
    counts = torch.tensor([len(r) for r in rows], device=padded.device)
    return torch.arange(padded.shape[1], device=padded.device) < counts[:, None]


def _with_spare_row(rows: Sequence[Tensor]) -> Tensor:
    """Rows of every image, padded by at least one of zeros: there is always one to point at."""
    return pad_sequence([torch.cat([r, r.new_zeros(1, *r.shape[1:])]) for r in rows], batch_first=True)


def balanced_fastrcnn_loss(
    class_logits: Float[Tensor, "S C"],
    box_regression: Float[Tensor, "S C4"],
    labels: Sequence[Int[Tensor, " _"]],
    regression_targets: Sequence[Float[Tensor, "_ 4"]],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """torchvision's ``fastrcnn_loss`` with balanced L1: cross entropy, and the localization loss of the positives.

    Both are divided by the number of samples. ``C`` counts the background, which is class 0.
    """
    label, targets = torch.cat(list(labels)), torch.cat(list(regression_targets))
    own = box_regression.unflatten(1, (-1, 4)).gather(1, label[:, None, None].expand(-1, 1, 4))[:, 0]
    count = box_regression.new_tensor(max(len(label), 1), dtype=torch.float32)
    localization = box_loss(own[None], targets[None], (label > 0)[None], count, SECOND_STAGE)
    return F.cross_entropy(class_logits, label), localization


def balanced_regression_loss(
    head: RetinaNetRegressionHead,
    targets: Sequence[dict[str, Tensor]],
    head_outputs: dict[str, Tensor],
    anchors: Sequence[Float[Tensor, "N 4"]],
    matched_idxs: Sequence[Int[Tensor, " N"]],
) -> Float[Tensor, ""]:
    """``RetinaNetRegressionHead.compute_loss`` with balanced L1.

    As there, each image's loss is divided by its number of positives, and images are averaged.
    """
    deltas, matched = head_outputs["bbox_regression"], torch.stack(list(matched_idxs))
    objects = take(_with_spare_row([t["boxes"] for t in targets]), matched)
    wanted = head.box_coder.encode_single(objects.flatten(0, 1), torch.cat(list(anchors))).view_as(deltas)
    positive = matched >= 0
    # Anchors of no object have infinite deltas; they are cut out before the loss, so that no gradient is NaN.
    error = (deltas.float() - wanted).where(positive[..., None], 0)
    loss = balanced_l1_loss(error, ONE_STAGE.alpha, ONE_STAGE.gamma, ONE_STAGE.beta)
    return (loss.sum((1, 2)) / positive.sum(1).clamp(min=1)).mean()


def forward_with_balanced_loss(
    heads: RoIHeads,
    features: dict[str, Tensor],
    proposals: list[Tensor],
    image_shapes: list[tuple[int, int]],
    targets: list[dict[str, Tensor]] | None = None,
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """``RoIHeads.forward``, all of it torchvision's own but :func:`balanced_fastrcnn_loss`."""
    return _FORWARD(heads, features, proposals, image_shapes, targets)


# The loss is a function that the forward pass finds by its name, not a method that a model could have another of.
# So the same code looks its names up elsewhere: losses of masks and keypoints, checks and inference stay theirs, and
# no other model notices.
_FORWARD = FunctionType(
    RoIHeads.forward.__code__, RoIHeads.forward.__globals__ | {"fastrcnn_loss": balanced_fastrcnn_loss}
)
