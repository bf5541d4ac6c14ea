"""Libra R-CNN's components in torchvision's own detectors, which keep their training loop.

:func:`balance` changes how the box head's proposals are sampled, adds a balanced feature pyramid, and replaces the box
loss. Everything else remains torchvision's: images, targets, losses and detections keep their form and names.
"""

import warnings
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.retinanet import RetinaNetRegressionHead
from torchvision.models.detection.roi_heads import RoIHeads

from libradet.balance import BalancedFeaturePyramid, balanced_l1_loss
from libradet.errors import UserError
from libradet.geometry.indexing import gather_rows
from libradet.geometry.matching import IGNORED, Matches, match
from libradet.models.config import BoxLossConfig, SamplingConfig
from libradet.models.losses import box_loss
from libradet.models.sampling import sample
from libradet.utils.arguments import check_arguments

Model = TypeVar("Model", bound=nn.Module)

ROI_BOX_LOSS = BoxLossConfig(type="balanced_l1", alpha=0.5, gamma=1.5, beta=1.0)
RETINANET_BOX_LOSS = BoxLossConfig(type="balanced_l1", alpha=0.5, gamma=1.5, beta=0.11)


class Balanced(NamedTuple):
    """Components that :func:`balance` has added to a model; it is stored as ``model.balanced``."""

    sampling: bool
    pyramid: bool
    loss: bool


@check_arguments
def balance(model: Model, sampling: bool = True, pyramid: bool = True, loss: bool = True) -> Model:
    """Turn a torchvision Faster R-CNN, Mask R-CNN or RetinaNet into its Libra form, in place.

    Call it once, after loading weights of the plain model and before creating the optimizer, DDP or ``torch.compile``,
    which would not know the new parameters. The state dict gains the balanced pyramid's, ``backbone.balance.*``, and
    nothing else.

    Args:
        model: the detector; its RPN is not changed, as in the paper.
        sampling: IoU-balanced negatives (K = 3 bins from 0 to the IoU threshold of negatives) and equally many
            positives for each object (paper 3.1); their numbers are those of the model's ``fg_bg_sampler``. RetinaNet
            has no sampling, because its focal loss uses all anchors; a warning says so.
        pyramid: a balanced feature pyramid with non-local refinement (paper 3.2) behind the backbone, averaged at the
            size of its middle level (RetinaNet: of the second one, which has the same stride of 16). Only the
            refinement starts as the identity: the average of all levels is added to each from the first step on, as in
            the paper, so the detections of a trained model change until it is trained further. Padded sizes do not
            change; levels whose sizes are not multiples of each other are pooled adaptively, as in mmdetection.
        loss: balanced L1 (paper 3.3) with α = 0.5 and γ = 1.5 instead of smooth L1, L1 or GIoU, divided by the number
            of samples, as before. In RoI heads β is 1, as in the paper, whose deltas are divided by 0.1, 0.1, 0.2, 0.2;
            torchvision multiplies them by 10, 10, 5, 5, which is the same. (The β of its own smooth L1 is 1/9, which
            is nearly L1.) In RetinaNet, whose deltas are not scaled, β is 0.11.

    Returns:
        The model itself.

    Raises:
        UserError: the model is of another kind, has been balanced before, or has heads with their own sampling or
            loss. The model is not changed then.
    """
    _check(model, sampling, pyramid, loss)
    is_retinanet = isinstance(model, RetinaNet)
    if is_retinanet and sampling:
        warnings.warn("RetinaNet's focal loss uses all anchors: there is no sampling to balance", stacklevel=2)
        sampling = False
    parts: Any = model
    if pyramid:
        _add_balanced_pyramid(parts.backbone, 1 if is_retinanet else _num_levels(model) // 2, model.training)
    if is_retinanet and loss:
        parts.head.regression_head = _as_subclass(parts.head.regression_head, BalancedRegressionHead)
    elif not is_retinanet and (sampling or loss):
        heads = _as_subclass(parts.roi_heads, BalancedRoIHeads)
        heads.balance_sampling, heads.balance_loss = sampling, loss
        parts.roi_heads = heads
    parts.balanced = Balanced(sampling, pyramid, loss)
    return model


def _add_balanced_pyramid(backbone: Any, level: int, training: bool) -> None:
    block = BalancedFeaturePyramid(backbone.out_channels, level)
    backbone.balance = block.to(next(backbone.parameters())).train(training)
    backbone.register_forward_hook(balance_levels)


def _as_subclass(module: nn.Module, subclass: type[nn.Module]) -> Any:
    """Return a module with the same parameters, hooks and attributes whose class is ``subclass``.

    If the module's own class is a subclass of torchvision's, the new class inherits from both.
    """
    own: type[nn.Module] = type(module)
    if not issubclass(subclass, own):
        subclass = type(f"Balanced{own.__name__}", (subclass, own), {})
    converted = object.__new__(subclass)
    vars(converted).update(vars(module))
    return converted


def _check(model: nn.Module, sampling: bool, pyramid: bool, loss: bool) -> None:
    """Raise UserError unless all requested components can be added."""
    name = type(model).__name__
    if isinstance(getattr(model, "module", None) or getattr(model, "_orig_mod", None), nn.Module):
        raise UserError(f"{name} is a wrapper: balance the model itself, and wrap it afterwards")
    if not isinstance(model, FasterRCNN | RetinaNet):
        raise UserError(f"{name} cannot be balanced: only torchvision's FasterRCNN, MaskRCNN and RetinaNet can")
    if hasattr(model, "balanced"):
        raise UserError(f"this {name} is balanced already ({model.balanced}): call balance only once")
    if pyramid and _num_levels(model) < 2:
        raise UserError(f"the backbone of this {name} has one level, so no pyramid to balance: use pyramid=False")
    if isinstance(model, RetinaNet):
        if loss:
            _check_method(model.head.regression_head, RetinaNetRegressionHead, "compute_loss", "loss")
        return
    if sampling:
        _check_method(model.roi_heads, RoIHeads, "select_training_samples", "sampling")
    if loss:
        _check_method(model.roi_heads, RoIHeads, "forward", "loss")


def _check_method(module: nn.Module, torchvision_class: type[nn.Module], method: str, option: str) -> None:
    """Raise UserError if ``method`` is not torchvision's."""
    own = type(module)
    if method in vars(module) or getattr(own, method, None) is not getattr(torchvision_class, method):
        raise UserError(
            f"{own.__name__} has its own {method} instead of that of torchvision's {torchvision_class.__name__}, "
            f"which balancing would replace: use {option}=False"
        )


def _num_levels(model: Any) -> int:
    stage: Any = model if isinstance(model, RetinaNet) else model.rpn
    return len(stage.anchor_generator.sizes)


def balance_levels(backbone: Any, _: tuple, features: OrderedDict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Balance the levels that a backbone returns, as its forward hook; their names do not change."""
    return OrderedDict(zip(features, backbone.balance(list(features.values())), strict=True))


class BalancedRoIHeads(RoIHeads):
    """torchvision's ``RoIHeads`` with balanced sampling and balanced L1 loss, as far as they are switched on.

    Attributes:
        balance_sampling, balance_loss: which of them are.
    """

    balance_sampling: bool
    balance_loss: bool
    _training_samples: tuple[Any, Any, Any, Any] | None = None

    def select_training_samples(self, proposals: Any, targets: Any) -> tuple[Any, Any, Any, Any]:
        """Return boxes, rows of their objects, labels and deltas of the sampled proposals of each image."""
        if self.balance_sampling:
            samples = select_balanced_samples(self, proposals, targets)
        else:
            samples = super().select_training_samples(proposals, targets)
        if self.balance_loss:
            self._training_samples = samples
        return samples

    def forward(self, features: Any, proposals: Any, image_shapes: Any, targets: Any = None) -> tuple[list, dict]:
        """Return detections and losses as ``RoIHeads`` does, with ``loss_box_reg`` as balanced L1."""
        if not (self.training and self.balance_loss):
            return super().forward(features, proposals, image_shapes, targets)
        outputs: list[tuple[Tensor, Tensor]] = []
        hook = self.box_predictor.register_forward_hook(lambda module, args, output: outputs.append(output))
        try:
            detections, losses = super().forward(features, proposals, image_shapes, targets)
        finally:
            hook.remove()
            samples, self._training_samples = self._training_samples, None
        assert samples is not None
        _, box_regression = outputs[0]
        _, _, labels, regression_targets = samples
        losses["loss_box_reg"] = balanced_box_loss(box_regression, labels, regression_targets)
        return detections, losses


class BalancedRegressionHead(RetinaNetRegressionHead):
    """torchvision's ``RetinaNetRegressionHead`` with balanced L1 loss."""

    def compute_loss(self, targets: Any, head_outputs: Any, anchors: Any, matched_idxs: Any) -> Tensor:
        """Return the box loss; see :func:`balanced_regression_loss`."""
        return balanced_regression_loss(self, targets, head_outputs, anchors, matched_idxs)


def select_balanced_samples(
    heads: RoIHeads, proposals: Sequence[Float[Tensor, "_ 4"]], targets: Sequence[dict[str, Tensor]]
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Sample proposals with balanced sampling, with the result of ``RoIHeads.select_training_samples``.

    Returns:
        For each image: boxes [S, 4]; the rows of their objects (0 for negatives); their labels, 0 for background; and
        the deltas from box to object, which are meaningless for negatives.
    """
    heads.check_targets(targets)
    boxes = [t["boxes"].to(proposals[0].dtype) for t in targets]
    with_objects = heads.add_gt_proposals(proposals, boxes)
    candidates, gt_boxes = pad_sequence(with_objects, batch_first=True), _with_spare_row(boxes)
    matches = match(
        candidates,
        gt_boxes,
        _not_padding(boxes, gt_boxes),
        fg_iou_thresh=heads.proposal_matcher.high_threshold,
        bg_iou_thresh=heads.proposal_matcher.low_threshold,
    )
    matches = Matches(matches.gt.where(_not_padding(with_objects, candidates), IGNORED), matches.iou)
    config = SamplingConfig(
        batch_size_per_image=heads.fg_bg_sampler.batch_size_per_image,
        positive_fraction=heads.fg_bg_sampler.positive_fraction,
        positives="instance_balanced",
        negatives="iou_balanced",
    )
    samples = sample(matches, gt_boxes.shape[1], config, heads.proposal_matcher.low_threshold)
    gt_labels = _with_spare_row([t["labels"] for t in targets])
    gt = gather_rows(matches.gt, samples.index).clamp(min=0)
    labels = gather_rows(gt_labels, gt).where(samples.positive, 0)
    # Valid samples come first.
    counts = samples.valid.sum(1).tolist()
    chosen, rows, labels, objects = (
        [values[:count] for values, count in zip(table, counts, strict=True)]
        for table in (gather_rows(candidates, samples.index), gt, labels, gather_rows(gt_boxes, gt))
    )
    return chosen, rows, labels, list(heads.box_coder.encode(objects, chosen))


def _not_padding(rows: Sequence[Tensor], padded: Tensor) -> Bool[Tensor, "B N"]:
    """Return which rows of ``padded`` are not padding."""
    counts = torch.tensor([len(r) for r in rows], device=padded.device)
    return torch.arange(padded.shape[1], device=padded.device) < counts[:, None]


def _with_spare_row(rows: Sequence[Tensor]) -> Tensor:
    """Return the rows of every image, padded by at least one row of zeros, so that row 0 always exists."""
    return pad_sequence([torch.cat([r, r.new_zeros(1, *r.shape[1:])]) for r in rows], batch_first=True)


def balanced_box_loss(
    box_regression: Float[Tensor, "S C4"],
    labels: Sequence[Int[Tensor, " _"]],
    regression_targets: Sequence[Float[Tensor, "_ 4"]],
) -> Float[Tensor, ""]:
    """Return the balanced L1 loss of positives over the number of samples; compare torchvision's ``fastrcnn_loss``.

    ``box_regression`` has deltas of each class, of which background is the first.
    """
    label, targets = torch.cat(list(labels)), torch.cat(list(regression_targets))
    deltas = box_regression.unflatten(1, (-1, 4)).gather(1, label[:, None, None].expand(-1, 1, 4))[:, 0]
    count = box_regression.new_tensor(max(len(label), 1), dtype=torch.float32)
    return box_loss(deltas[None], targets[None], (label > 0)[None], count, ROI_BOX_LOSS)


def balanced_regression_loss(
    head: RetinaNetRegressionHead,
    targets: Sequence[dict[str, Tensor]],
    head_outputs: dict[str, Tensor],
    anchors: Sequence[Float[Tensor, "N 4"]],
    matched_idxs: Sequence[Int[Tensor, " N"]],
) -> Float[Tensor, ""]:
    """Return the loss of ``RetinaNetRegressionHead.compute_loss`` with balanced L1.

    Each image's loss is divided by its number of positives, and images are averaged.
    """
    deltas, matched = head_outputs["bbox_regression"], torch.stack(list(matched_idxs))
    objects = gather_rows(_with_spare_row([t["boxes"] for t in targets]), matched)
    target_deltas = head.box_coder.encode_single(objects.flatten(0, 1), torch.cat(list(anchors))).view_as(deltas)
    positive = matched >= 0
    # Deltas of anchors without object are infinite; they are removed before the loss, so that no gradient is NaN.
    error = (deltas.float() - target_deltas).where(positive[..., None], 0)
    loss = balanced_l1_loss(error, RETINANET_BOX_LOSS.alpha, RETINANET_BOX_LOSS.gamma, RETINANET_BOX_LOSS.beta)
    return (loss.sum((1, 2)) / positive.sum(1).clamp(min=1)).mean()
