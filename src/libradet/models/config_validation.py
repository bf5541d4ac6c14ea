"""Validation of a detector's configuration: ranges of fields, and rules between fields."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from libradet.errors import UserError
from libradet.models.config import (
    MAX_LAYERS,
    AnchorConfig,
    BoxLossConfig,
    CascadeConfig,
    DetectorConfig,
    FocalConfig,
    MatchConfig,
    SamplingConfig,
)
from libradet.utils.ranges import check_ranges
from libradet.utils.text import counted


def validate_config(config: DetectorConfig) -> None:
    """Refuse heads that do not fit together, numbers outside their ranges and contradicting fields.

    Raises:
        UserError: names the field, its value and what is allowed.
    """
    validate_settings(config)
    _check_class_counts(config)


def validate_settings(config: DetectorConfig) -> None:
    """Do all of :func:`validate_config` that does not need the number of classes, which may come from a dataset."""
    _check_heads(config)
    _check_nms(config)
    if config.backbone.frozen and config.backbone.lora is not None:
        raise UserError("backbone.frozen and backbone.lora exclude each other; set frozen to false or lora to null")
    check_ranges(config)
    for path, part in _parts(config):
        if isinstance(part, MatchConfig) and part.bg_iou_thresh > part.fg_iou_thresh:
            raise UserError(
                f"{path}.bg_iou_thresh is {part.bg_iou_thresh}: it must be at most {path}.fg_iou_thresh, "
                f"which is {part.fg_iou_thresh}"
            )
        if isinstance(part, FocalConfig) and 0 < part.gamma < 1:
            raise UserError(f"{path}.gamma is {part.gamma}: it must be 0 or at least 1, for finite gradients")
        if isinstance(part, AnchorConfig):
            _check_anchors(path, part)
        if isinstance(part, SamplingConfig):
            _check_sampling(path, part)
        if isinstance(part, BoxLossConfig) and part.type == "balanced_l1":
            _check_balanced_l1(path, part)
    _check_background_shares(config)
    _check_scores_of_proposals(config)
    if config.roi is not None and config.roi.class_balance is not None and config.roi.focal is not None:
        raise UserError("roi.focal and roi.class_balance exclude each other; set one of them to null")
    _check_sizes(config)


def _check_heads(config: DetectorConfig) -> None:
    if config.retinanet is not None:
        others = [name for name in ("rpn", "roi", "cascade", "mask") if getattr(config, name) is not None]
        if others:
            raise UserError(
                f"{config.model}: retinanet cannot be combined with other heads; set {' and '.join(others)} to null"
            )
    elif config.rpn is None and config.roi is None:
        raise UserError(f"{config.model}: has no head; set rpn, roi or retinanet")
    if config.roi is None and (config.cascade or config.mask):
        raise UserError(f"{config.model}: cascade and mask need roi, which is null")
    if config.cascade is not None:
        _check_cascade(config.model, config.cascade)


def _check_cascade(model: str, cascade: CascadeConfig) -> None:
    stages = len(cascade.iou_thresholds)
    if stages > MAX_LAYERS:
        raise UserError(f"{model}: cascade has {counted(stages, 'stage')}; at most {MAX_LAYERS} are supported")
    if not (0 < stages == len(cascade.box_stds) == len(cascade.weights)):
        raise UserError(f"{model}: cascade.iou_thresholds, box_stds and weights must have one entry per stage")


def _check_nms(config: DetectorConfig) -> None:
    detections = config.detections
    if detections.nms_type != "nms" and config.is_proposal_model:
        raise UserError(
            f"detections.nms_type is {detections.nms_type}: it must be nms for proposal models such as {config.model}"
        )
    if detections.score_fusion != "none" and (config.roi is None or config.roi.iou is None):
        fix = "set roi.iou" if config.roi else f"{config.model} has no box head, so set it to none"
        raise UserError(f"detections.score_fusion is {detections.score_fusion}: it needs a predicted IoU; {fix}")
    if detections.score_fusion == "iou_guided" and detections.nms_type != "nms":
        raise UserError(
            f"detections.score_fusion is iou_guided and detections.nms_type {detections.nms_type}, which exclude each "
            "other: set score_fusion to none or multiply, or nms_type to nms"
        )


def _check_anchors(path: str, anchors: AnchorConfig) -> None:
    empty = "ratios" if not anchors.ratios else "scales" if not (anchors.scales or anchors.sizes) else None
    if empty is not None:
        raise UserError(f"{path}.{empty} is empty, so there are no anchors: it needs at least one number")


def _check_sampling(path: str, sampling: SamplingConfig) -> None:
    defaults = SamplingConfig()
    balancing = ("random_fraction", "random_schedule", "floor_fraction", "background_sampling", "floor_thr")
    for name in (*balancing, "reweight_exponent"):
        if getattr(sampling, name) != getattr(defaults, name) and sampling.negatives != "iou_balanced":
            raise UserError(
                f"{path}.{name} is {getattr(sampling, name)}, which needs {path}.negatives iou_balanced, "
                f"not {sampling.negatives}"
            )
    if sampling.random_fraction and sampling.floor_fraction:
        raise UserError(f"{path}.random_fraction and {path}.floor_fraction exclude each other; set one of them to 0")
    if sampling.random_schedule == "linear" and sampling.floor_fraction:
        raise UserError(f"{path}.random_schedule and {path}.floor_fraction exclude each other; set floor_fraction to 0")
    if sampling.random_schedule == "linear" and sampling.random_fraction == 1:
        raise UserError(
            f"{path}.random_schedule is linear: it goes from 1 to {path}.random_fraction, which must be below 1, not 1"
        )
    if sampling.background_sampling == "score_balanced" and not sampling.floor_fraction:
        raise UserError(f"{path}.background_sampling is score_balanced, which needs a {path}.floor_fraction above 0")


def _check_background_shares(config: DetectorConfig) -> None:
    for path, stage in (("rpn", config.rpn), ("roi", config.roi)):
        if stage is not None and 0 < stage.sampling.floor_thr >= stage.match.bg_iou_thresh:
            raise UserError(
                f"{path}.sampling.floor_thr is {stage.sampling.floor_thr}: it must be below "
                f"{path}.match.bg_iou_thresh, which is {stage.match.bg_iou_thresh}, since IoU bins are between them"
            )


def _check_scores_of_proposals(config: DetectorConfig) -> None:
    if config.requires_proposals and config.roi and config.roi.sampling.background_sampling == "score_balanced":
        raise UserError(
            "roi.sampling.background_sampling is score_balanced: it needs the scores of an RPN, "
            f"and {config.model} has none"
        )


def _check_balanced_l1(path: str, loss: BoxLossConfig) -> None:
    if loss.beta == 0:
        raise UserError(f"{path}.beta is 0: balanced L1 needs a beta above 0; for plain L1 set {path}.type to l1")
    # b = exp(gamma / alpha) - 1 is multiplied with errors: it must stay far below the largest float.
    if loss.gamma > 50 * loss.alpha:
        raise UserError(f"{path}.gamma is {loss.gamma}: it must be at most 50 times alpha, which is {loss.alpha}")


def _check_sizes(config: DetectorConfig) -> None:
    short, long = config.image.size
    if short > long:
        raise UserError(f"image.size is {[short, long]}: the shorter side must come first")
    balanced, levels = config.pyramid.balanced, config.pyramid.num_levels
    if balanced is not None and not 0 <= balanced.level < levels:
        raise UserError(
            f"pyramid.balanced.level is {balanced.level}: it must be between 0 and {levels - 1}, "
            f"as pyramid.num_levels is {levels}"
        )
    for name, head in (("roi", config.roi), ("mask", config.mask)):
        if head is not None and head.align.num_levels > levels:
            raise UserError(f"{name}.align.num_levels is {head.align.num_levels}: the pyramid has {levels} levels")


def _check_class_counts(config: DetectorConfig) -> None:
    balance = None if config.roi is None else config.roi.class_balance
    if balance is not None and len(balance.frequencies) not in (0, config.num_classes):
        raise UserError(
            f"roi.class_balance.frequencies has {counted(len(balance.frequencies), 'entry', 'entries')}: it "
            "needs one per class "
            f"({config.num_classes}), or none to count them in the training set"
        )
    for name in ("class_names", "category_ids"):
        entries = len(getattr(config, name))
        if entries not in (0, config.num_classes):
            raise UserError(
                f"{name} has {counted(entries, 'entry', 'entries')}: it needs one per class "
                f"({config.num_classes}), or none"
            )


def _parts(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of every dataclass inside ``config``."""
    for field in fields(config):
        value, name = getattr(config, field.name), f"{path}.{field.name}".lstrip(".")
        if is_dataclass(value):
            yield name, value
            yield from _parts(value, name)
