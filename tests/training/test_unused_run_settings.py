"""Settings of a run that have no effect are refused with what they need."""

import pytest

from libradet.errors import UserError
from libradet.models.config import BackboneConfig, DetectorConfig
from libradet.training.config import TrainConfig
from libradet.training.unused_run_settings import refuse_unused

CASES = [
    ({"allow_partial": True}, {"weights": "x.safetensors"}, "needs weights"),
    ({"tile_empty_fraction": 0.5}, {"tiles": [640.0, 0.2]}, "needs tiles"),
    ({"no_aug_epochs": 2}, {"mixup_prob": 0.5}, "needs mosaic, copy-paste or mixup"),
    ({"momentum": 0.8}, {}, "needs optimizer sgd"),
    ({"lr_milestones": [3.0]}, {}, "needs lr_schedule multistep"),
    ({"lr_gamma": 0.5}, {}, "needs lr_schedule multistep"),
    ({"min_lr_ratio": 0.5}, {"lr_schedule": "cosine"}, "needs lr_schedule cosine"),
    ({"warmup_start_factor": 0.5}, {}, "needs warm-up"),
    ({"layer_decay": 0.8}, {}, "a backbone that is trained"),
    ({"activation_checkpointing": True}, {}, "a backbone that is trained"),
]
SWITCHED_OFF = {
    "momentum": {"optimizer": "adamw"},
    "lr_milestones": {"lr_schedule": "cosine"},
    "lr_gamma": {"lr_schedule": "cosine"},
    "warmup_start_factor": {"warmup_steps": 0},
}


@pytest.mark.parametrize(("settings", "used_with", "words"), CASES)
def test_settings_without_effect_are_refused(settings, used_with, words):
    (name,) = settings
    frozen = DetectorConfig(backbone=BackboneConfig(frozen=True))
    with pytest.raises(UserError, match=f"^{name} is .*{words}.*, or leave it out$"):
        refuse_unused(TrainConfig("x", **SWITCHED_OFF.get(name, {}), **settings), frozen)
    refuse_unused(TrainConfig("x", **settings, **used_with), DetectorConfig())


def test_the_milestones_in_the_file_of_a_run_with_cosine_schedule_are_nobodys():
    refuse_unused(TrainConfig("x", lr_schedule="cosine", max_epochs=12, lr_milestones=[8.0, 11.0]), DetectorConfig())
    detector, cosine = DetectorConfig(), {"lr_schedule": "cosine", "max_epochs": 12}
    refuse_unused(TrainConfig("x", lr_milestones=[0.545, 0.75], **cosine), detector)  # of 0.818 epochs, by max_steps
    with pytest.raises(UserError, match="needs lr_schedule multistep"):
        refuse_unused(TrainConfig("x", lr_milestones=[4.0, 11.0], **cosine), detector)


def test_a_resumed_run_keeps_settings_without_effect_but_gets_no_new_ones():
    config = TrainConfig("x", optimizer="adamw", momentum=0.8)
    refuse_unused(config, DetectorConfig(), {"momentum": 0.8})
    with pytest.raises(UserError, match=r"momentum is 0\.8, which needs optimizer sgd"):
        refuse_unused(config, DetectorConfig(), {"momentum": 0.9})
