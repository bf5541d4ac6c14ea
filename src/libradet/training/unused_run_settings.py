"""Settings of a run that have no effect, because another setting switches off what they belong to."""

from libradet.errors import UserError
from libradet.models.config import DetectorConfig
from libradet.training.config import TrainConfig
from libradet.training.optim import default_milestones, make_augmentation


def refuse_unused(config: TrainConfig, detector: DetectorConfig) -> None:
    """Raise UserError for a setting without effect that is not at its default."""
    for names, is_used, needs in (
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
            if getattr(config, name) not in _unused_values(config, name):
                raise UserError(f"{name} is {getattr(config, name)}, which needs {needs}, or leave it out")


def _unused_values(config: TrainConfig, name: str) -> list[object]:
    """Return the values of a setting left out; config.yaml of a run has the milestones that its length implies."""
    default = getattr(TrainConfig, name)
    return [default, default_milestones(config)] if name == "lr_milestones" else [default]
