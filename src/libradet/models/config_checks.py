"""Whether a configuration makes sense, before anything is built from it."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from libradet.errors import UserError
from libradet.models.config import BoxLossConfig, DetectorConfig, FocalConfig, MatchConfig

# Ranges by the name of a field, or by its name and that of the part it is in.
COUNTS = {
    "size",
    "train_proposals",
    "test_proposals",
    "num_bins",
    "per_level",
    "total",
    "levels",
    "channels",
    "width",
    "num_classes",
    "roi.fcs",
}
SHARES = {"positive_fraction", "positive", "negative", "min_positive", "crowd", "nms", "score", "focal.alpha", "floor"}
ABOVE_ZERO = {
    *("negatives_per_positive", "canonical_size", "prior", "std", "scales", "ratios"),
    *("box_std", "box_stds", "ious", "box_loss.alpha", "box_loss.gamma", "sigma"),
}
NOT_BELOW_ZERO = {
    *("weight", "weights", "class_weight", "sampling_ratio", "convs", "divisor", "freeze_at", "norm_eps"),
    *("focal.gamma", "box_loss.beta", "iou.beta", "allowed_border"),
}


LAYERS = {"convs", "fcs", "levels"}
MOST_LAYERS = 100
"""A configuration may come in a file from anybody, and making layers takes time even without their weights."""


def check_config(config: DetectorConfig) -> None:
    """Refuse heads that do not fit together and values out of their ranges.

    Raises:
        UserError: names the field, its value and what it may be.
    """
    _check_heads(config)
    _check_suppression(config)
    for name, value in _leaves(config):
        _check_range(name, value)
    for name, part in _parts(config):
        if isinstance(part, MatchConfig) and part.negative > part.positive:
            raise UserError(f"{name}.negative is {part.negative}: at most {name}.positive, which is {part.positive}")
        if isinstance(part, FocalConfig) and 0 < part.gamma < 1:
            raise UserError(f"{name}.gamma is {part.gamma}: 0, or at least 1; between them gradients can be infinite")
        if isinstance(part, BoxLossConfig) and part.kind == "balanced_l1":
            _check_balanced_l1(name, part)
    _check_sizes(config)
    _check_classes(config)


def _check_heads(config: DetectorConfig) -> None:
    if config.dense is not None:
        others = [name for name in ("rpn", "roi", "cascade", "mask") if getattr(config, name) is not None]
        if others:
            raise UserError(f"{config.model}: dense is a detector of its own; set {' and '.join(others)} to null")
    elif config.rpn is None and config.roi is None:
        raise UserError(f"{config.model}: has no head; give it rpn, roi or dense")
    if config.roi is None and (config.cascade or config.mask):
        raise UserError(f"{config.model}: cascade and mask need roi, which is null")
    cascade = config.cascade
    stages = 0 if cascade is None else len(cascade.ious)
    if stages > MOST_LAYERS:
        raise UserError(f"{config.model}: cascade has {stages} stages: at most {MOST_LAYERS} are possible")
    if cascade is not None and not (0 < stages == len(cascade.box_stds) == len(cascade.weights)):
        raise UserError(f"{config.model}: cascade.ious, box_stds and weights must have one entry for each stage")


def _check_suppression(config: DetectorConfig) -> None:
    found = config.detections
    if found.suppression != "nms" and config.proposes:
        raise UserError(
            f"detections.suppression is {found.suppression}: only nms is for proposals, which {config.model} gives"
        )
    if found.quality != "none" and (config.roi is None or config.roi.iou is None):
        need = (
            "so give the model roi.iou"
            if config.roi
            else f"which only a second stage does, and {config.model} has none"
        )
        raise UserError(f"detections.quality is {found.quality}: it needs a predicted IoU, {need}")
    if found.quality == "guide" and found.suppression != "nms":
        raise UserError(
            f"detections.quality is guide, detections.suppression {found.suppression}: guided suppression is one "
            "of its own; set one of them to none or nms"
        )


def _check_range(path: str, value: Any) -> None:
    names = {path.rpartition(".")[2], ".".join(path.split(".")[-2:])}
    for number in _numbers(value):
        if names & LAYERS and number > MOST_LAYERS:
            raise UserError(f"{path} is {number}: at most {MOST_LAYERS} are possible")
        if not abs(number) <= sys.float_info.max:  # whole numbers may be larger, too
            raise UserError(f"{path} is {str(number)[:40]}: a finite number is needed")
        if names & COUNTS and number < 1:
            raise UserError(f"{path} is {number}: at least 1 is needed")
        if names & SHARES and not 0 <= number <= 1:
            raise UserError(f"{path} is {number}: it must be between 0 and 1")
        if names & ABOVE_ZERO and number <= 0:
            raise UserError(f"{path} is {number}: it must be above 0")
        if names & NOT_BELOW_ZERO and number < 0:
            raise UserError(f"{path} is {number}: it must not be below 0")


def _check_balanced_l1(path: str, loss: BoxLossConfig) -> None:
    if loss.beta == 0:
        raise UserError(f"{path}.beta is 0: balanced L1 needs one above 0; for L1 itself set {path}.kind to l1")
    # b = exp(γ/α) - 1 is multiplied with errors: it must stay far from what a float holds.
    if loss.gamma > 50 * loss.alpha:
        raise UserError(f"{path}.gamma is {loss.gamma}: at most 50 times alpha, which is {loss.alpha}")


def _check_sizes(config: DetectorConfig) -> None:
    short, long = config.image.size
    if short > long:
        raise UserError(f"image.size is {[short, long]}: the short side first, then the long one")
    balanced, levels = config.pyramid.balanced, config.pyramid.levels
    if balanced is not None and not 0 <= balanced.level < levels:
        raise UserError(f"pyramid.balanced.level is {balanced.level}: 0 to {levels - 1}, as there are {levels} levels")
    for name, head in (("roi", config.roi), ("mask", config.mask)):
        if head is not None and head.align.levels > levels:
            raise UserError(f"{name}.align.levels is {head.align.levels}: the pyramid has {levels} levels")


def _check_classes(config: DetectorConfig) -> None:
    for name in ("class_names", "category_ids"):
        given = len(getattr(config, name))
        if given not in (0, config.num_classes):
            raise UserError(f"{name} has {given} entries: one for each of the {config.num_classes} classes, or none")


def _parts(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for field in fields(config):
        value, name = getattr(config, field.name), f"{path}.{field.name}".lstrip(".")
        if is_dataclass(value):
            yield name, value
            yield from _parts(value, name)


def _leaves(config: DetectorConfig) -> Iterator[tuple[str, Any]]:
    for path, part in [("", config), *_parts(config)]:
        for field in fields(part):
            value = getattr(part, field.name)
            if not is_dataclass(value):
                yield f"{path}.{field.name}".lstrip("."), value


def _numbers(value: Any) -> list[int | float]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [value]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [number for entry in value for number in _numbers(entry)]
    return []
