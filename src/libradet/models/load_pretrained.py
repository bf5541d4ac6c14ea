"""Start a detector from trained weights: inherited settings, matching tensors, and weights of a backbone alone."""

import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from libradet.errors import UserError
from libradet.models.config import CLASS_BALANCE, LOSS_WEIGHTS, DetectorConfig
from libradet.utils.text import summarize_list

if TYPE_CHECKING:
    from torch import Tensor

    from libradet.models.detector import Detector

# Per part, the fields that determine shapes of tensors and the meaning of their values.
INHERITED_FIELDS: dict[str, tuple[str, ...]] = {
    "rpn": ("anchors", "num_convs"),
    "roi": ("align", "num_convs", "norm", "num_fcs", "fc_dim", "class_agnostic", "box_std", "iou"),
    "cascade": ("iou_thresholds", "box_stds", "average"),
    "mask": ("align", "num_convs", "norm", "channels"),
    "retinanet": ("anchors", "num_convs", "norm", "clip_last"),
}
CLASS_LAYERS = re.compile(r"roi\.(\d+\.)?(logits|deltas|iou)\.|mask\.logits\.|retinanet\.logits\.")
BOX_LAYERS = re.compile(r"roi\.(\d+\.)?(deltas|iou)\.")
BALANCED_PYRAMID = "balance."
IOU_LAYER = re.compile(r"roi\.(\d+\.)?iou\.")

# ImageNet weights that detection papers start from, where timm's default differs.
IMAGENET_TAGS = {
    "resnet18": "resnet18.tv_in1k",
    "resnet34": "resnet34.tv_in1k",
    "resnet50": "resnet50.tv_in1k",
    "resnet101": "resnet101.tv_in1k",
    "resnext101_64x4d": "resnext101_64x4d.tv_in1k",
}

ChannelValues = tuple[float, float, float]


class BackboneWeights(NamedTuple):
    """Trained weights of a backbone alone, under timm's names (torchvision's ResNets have the same).

    Attributes:
        path: file that they were read from.
        tensors: by name; tensors that the features do not need, such as classifiers, are ignored.
    """

    path: Path
    tensors: "dict[str, Tensor]"


def pixel_statistics(name: str) -> tuple[ChannelValues, ChannelValues] | None:
    """Return mean and standard deviation (RGB, 0..255) of timm's weights of a backbone; None if it has no weights."""
    from libradet.utils.quick_timm import timm

    cfg = timm.get_pretrained_cfg(IMAGENET_TAGS.get(name, name), allow_unregistered=True)
    if cfg is None:
        return None
    # Rounded to decimals, so that 0.485 * 255 is 123.675 and not a neighboring float.
    mean, std = ([round(255 * value, 3) for value in values] for values in (cfg.mean, cfg.std))
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def inherit_config(config: DetectorConfig, trained: DetectorConfig) -> DetectorConfig:
    """Return ``config`` with the preprocessing, backbone and conventions of the detector that it starts from.

    Its heads, balanced components and training settings are kept.
    """
    config, trained = deepcopy(config), deepcopy(trained)
    config.image, config.backbone = trained.image, trained.backbone
    # Where the backbone has other features, there is no other pyramid.
    if config.pyramid.start_stride == trained.pyramid.start_stride or trained.backbone.features != "stages":
        balanced = config.pyramid.balanced
        if balanced is not None and trained.pyramid.balanced is not None:
            balanced = trained.pyramid.balanced
        config.pyramid = replace(trained.pyramid, balanced=balanced)
    for part, names in INHERITED_FIELDS.items():
        own, theirs = getattr(config, part), getattr(trained, part)
        if own is not None and theirs is not None:
            for name in names:
                setattr(own, name, getattr(theirs, name))
    return config


def inherit_normalization(config: DetectorConfig, trained: DetectorConfig) -> DetectorConfig:
    """Return ``config`` with only those settings that the trained backbone depends on.

    These are the normalization and order of channels and, if the backbone is the same, the position of its strides and
    the epsilon of its batch norms.
    """
    image, backbone = trained.image, trained.backbone
    config = deepcopy(config)
    config.image = replace(config.image, mean=image.mean, std=image.std, channels=image.channels)
    if config.backbone.name == backbone.name:
        config.backbone = replace(config.backbone, stride_in_1x1=backbone.stride_in_1x1, norm_eps=backbone.norm_eps)
    return config


def load_matching_weights(model: "Detector", trained: "Detector", allow_partial: bool = False) -> list[str]:
    """Copy the tensors of ``trained`` into ``model``, except those of class layers if the classes differ.

    A layer that predicts IoUs keeps its random values if ``trained`` has none, and so does a gated pyramid, which adds
    nothing at first. Adapters of the backbone are merged, unless both have the same. Tensors of losses (uncertainty
    weighting, balanced classes) are not copied.

    Returns:
        Names of the layers that keep their random values.

    Raises:
        UserError: the backbones differ; or tensors other than those of class layers do not match, unless
            ``allow_partial``.
    """
    if model.config.backbone.name != trained.config.backbone.name:
        raise UserError(
            f"the weights have backbone {trained.config.backbone.name}, the model {model.config.backbone.name}: "
            "use the same backbone"
        )
    from libradet.models.lora import merge_lora, names_without_lora

    state = model.state_dict()
    names = {name: name for name in state}
    if model.config.backbone.lora != trained.config.backbone.lora:
        names, trained = names_without_lora(state), deepcopy(trained)
        merge_lora(trained)
    own = _without_losses({name: state[stored] for name, stored in names.items()})
    theirs = _without_losses(trained.state_dict())
    random = {name for name in own if _is_of_other_classes(name, model.config, trained.config)}
    random |= {name for name in own if IOU_LAYER.match(name) and name not in theirs}
    balanced = model.config.pyramid.balanced
    if balanced is not None and balanced.gated and trained.config.pyramid.balanced is None:
        random |= {name for name in own if name.startswith(BALANCED_PYRAMID)}
    matching = {
        name: tensor
        for name, tensor in theirs.items()
        if name in own and name not in random and own[name].shape == tensor.shape
    }
    missing = [name for name in own if name not in matching and name not in random]
    unexpected = [name for name in theirs if name not in own]
    if (missing or unexpected) and not allow_partial:
        raise UserError(
            f"weights of {trained.config.model} do not match this {model.config.model}; missing or of another shape: "
            f"{summarize_list(missing, 3, 'none')}; unexpected: {summarize_list(unexpected, 3, 'none')}. "
            "Set allow_partial to load the tensors that match"
        )
    model.load_state_dict({names[name]: tensor for name, tensor in matching.items()}, strict=False)
    return list(dict.fromkeys(name.rpartition(".")[0] for name in own if name not in matching))


def _without_losses(state: dict[str, "Tensor"]) -> dict[str, "Tensor"]:
    return {name: t for name, t in state.items() if not (name.startswith(LOSS_WEIGHTS) or CLASS_BALANCE in name)}


def _is_of_other_classes(name: str, config: DetectorConfig, trained: DetectorConfig) -> bool:
    """Whether a tensor belongs to a class layer and the classes differ."""
    if not CLASS_LAYERS.match(name) or not _classes_differ(config, trained):
        return False
    class_agnostic = config.roi is not None and config.roi.class_agnostic
    return not (class_agnostic and BOX_LAYERS.match(name))


def _classes_differ(a: DetectorConfig, b: DetectorConfig) -> bool:
    named = all(names and names[0] != "class_0" for names in (a.class_names, b.class_names))
    return a.num_classes != b.num_classes or (named and a.class_names != b.class_names)
