"""Settings of a run that have no effect, because another setting switches off what they belong to."""

from collections.abc import Mapping
from typing import Any

from libradet.errors import UserError
from libradet.models.config import DetectorConfig
from libradet.training.config import TrainConfig
from libradet.training.optim import default_milestones, make_augmentation

_ROUNDING = 0.002
"""Epochs; milestones have three decimals."""


def refuse_unused(config: TrainConfig, detector: DetectorConfig, started: Mapping[str, Any] | None = None) -> None:
    """Raise UserError for a setting without effect that is not at its default.

    Args:
        started: settings of a run that is resumed, which may be kept as they are.
    """
    kept = started or {}
    for names, is_used, needs in (
        (("allow_partial",), config.weights is not None, "weights: set weights"),
        (("tile_min_area_ratio", "tile_empty_fraction"), config.tiles is not None, "tiles: set tiles"),
        (
            ("no_aug_epochs",),
            make_augmentation(config).is_mixed,
            "mosaic, copy-paste or mixup: set mosaic_prob, copy_paste_prob or mixup_prob",
        ),
        (("momentum",), config.optimizer == "sgd", "optimizer sgd: set it"),
        (("lr_milestones", "lr_gamma"), config.lr_schedule == "multistep", "lr_schedule multistep: set it"),
        (("min_lr_ratio",), config.lr_schedule == "cosine", "lr_schedule cosine: set it"),
        (("warmup_start_factor",), config.warmup_steps != 0, "warm-up: raise warmup_steps"),
        (
            ("layer_decay", "activation_checkpointing"),
            not detector.backbone.frozen,
            "a backbone that is trained: set detector.backbone.frozen to false",
        ),
    ):
        for name in () if is_used else names:
            value = getattr(config, name)
            is_derived = name == "lr_milestones" and _is_derived(value)
            if value not in (getattr(TrainConfig, name), kept.get(name)) and not is_derived:
                raise UserError(f"{name} is {value}, which needs {needs}, or leave it out")


def _is_derived(milestones: list[float] | None) -> bool:
    """Return whether milestones are those that some length of a run implies, as the config.yaml of a run has them."""
    if milestones is None or len(milestones) != 2:
        return False
    implied = default_milestones(milestones[1] * 12 / 11)
    return abs(milestones[0] - implied[0]) < _ROUNDING
