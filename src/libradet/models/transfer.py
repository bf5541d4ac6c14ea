"""A new detector from a trained one: what its weights presuppose, and every tensor that fits."""

import re
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

from libradet.errors import UserError
from libradet.models.config import LOSS_WEIGHTS, DetectorConfig

if TYPE_CHECKING:
    from torch import Tensor

    from libradet.models.detector import Detector

# Of each part, what decides on shapes of tensors and on what their values mean.
PRESUPPOSED: dict[str, tuple[str, ...]] = {
    "rpn": ("anchors", "convs"),
    "roi": ("align", "convs", "norm", "fcs", "width", "class_agnostic", "box_std", "iou"),
    "cascade": ("ious", "box_stds", "average"),
    "mask": ("align", "convs", "norm", "channels"),
    "dense": ("anchors", "convs", "norm", "clip_last"),
}
CLASS_LAYERS = re.compile(r"roi\.(\d+\.)?(logits|deltas|iou)\.|mask\.logits\.|dense\.logits\.")
BOX_LAYERS = re.compile(r"roi\.(\d+\.)?(deltas|iou)\.")
IOU_LAYER = re.compile(r"roi\.(\d+\.)?iou\.")


def follow(config: DetectorConfig, trained: DetectorConfig) -> DetectorConfig:
    """``config`` with images, backbone and conventions of the detector whose weights it is to start from.

    Which parts it has, what it is balanced by, and how it is trained stay its own.
    """
    config, trained = deepcopy(config), deepcopy(trained)
    config.image, config.backbone = trained.image, trained.backbone
    if config.pyramid.first_stride == trained.pyramid.first_stride:
        both = config.pyramid.balanced and trained.pyramid.balanced
        config.pyramid = replace(trained.pyramid, balanced=both or config.pyramid.balanced)
    for part, names in PRESUPPOSED.items():
        own, theirs = getattr(config, part), getattr(trained, part)
        if own is not None and theirs is not None:
            for name in names:
                setattr(own, name, getattr(theirs, name))
    return config


def follow_values(config: DetectorConfig, trained: DetectorConfig) -> DetectorConfig:
    """``config`` with nothing but that without which a backbone's weights are worthless: how pixels are presented
    to it, where its strides are, and what its norms add to variances."""
    image, own = trained.image, trained.backbone
    config = deepcopy(config)
    config.image = replace(config.image, mean=image.mean, std=image.std, channels=image.channels)
    if config.backbone.name == own.name:
        config.backbone = replace(config.backbone, stride_in_1x1=own.stride_in_1x1, norm_eps=own.norm_eps)
    return config


def take_over(model: "Detector", trained: "Detector", allow_partial: bool = False) -> list[str]:
    """Copy the tensors of ``trained``; if its classes are others, all but those of the class layers.

    An IoU that ``trained`` does not predict is learned from random values. Learned weights of losses are not looked
    at: how a detector is trained is its own.

    Returns:
        Names of the layers that keep their random values.

    Raises:
        UserError: another backbone; or tensors other than those of the class layers do not fit, unless
            ``allow_partial``.
    """
    if model.config.backbone.name != trained.config.backbone.name:
        raise UserError(
            f"the weights have another backbone than {model.config.backbone.name}: {trained.config.backbone.name}"
        )
    own, theirs = (_lasting(detector.state_dict()) for detector in (model, trained))
    fresh = {name for name in own if _of_other_classes(name, model.config, trained.config)}
    fresh |= {name for name in own if IOU_LAYER.match(name) and name not in theirs}
    fitting = {n: t for n, t in theirs.items() if n in own and n not in fresh and own[n].shape == t.shape}
    missing = [n for n in own if n not in fitting and n not in fresh]
    surplus = [n for n in theirs if n not in own]
    if (missing or surplus) and not allow_partial:
        raise UserError(
            f"the weights are those of a {trained.config.model} and do not fit this {model.config.model} "
            f"(allow_partial takes over what fits); missing or of another shape: {_some(missing)}; "
            f"surplus: {_some(surplus)}"
        )
    model.load_state_dict(fitting, strict=False)
    return list(dict.fromkeys(n.rpartition(".")[0] for n in own if n not in fitting))


def _lasting(state: dict[str, "Tensor"]) -> dict[str, "Tensor"]:
    return {name: t for name, t in state.items() if not name.startswith(LOSS_WEIGHTS)}


def _of_other_classes(name: str, config: DetectorConfig, trained: DetectorConfig) -> bool:
    if not CLASS_LAYERS.match(name) or not _classes_differ(config, trained):
        return False
    agnostic = config.roi is not None and config.roi.class_agnostic
    return not (agnostic and BOX_LAYERS.match(name))


def _classes_differ(a: DetectorConfig, b: DetectorConfig) -> bool:
    known = all(names and names[0] != "class_0" for names in (a.class_names, b.class_names))
    return a.num_classes != b.num_classes or (known and a.class_names != b.class_names)


def _some(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) + more) or "none"
