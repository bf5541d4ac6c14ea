"""Tests of the comparison of a resumed run's detector and optimizer with its checkpoint."""

from dataclasses import asdict, replace

import pytest
import torch

from libradet.errors import UserError
from libradet.models.detector import Detector
from libradet.models.loss_config import ClassBalanceConfig
from libradet.training.config import TrainConfig
from libradet.training.optim import build_optimizer, resolve
from libradet.training.resume_layers import check_layers
from libradet.utils.nested import tuples_to_lists
from tests.helpers.training_runs import tiny_config

TRAINING = resolve(TrainConfig(data="somewhere", lr=0.1), 10)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint, and the settings of its run."""
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    detector = Detector(tiny_config())
    optimizer, _ = build_optimizer(detector, TRAINING, 10)
    tensors = {f"detector.{name}": tensor for name, tensor in detector.state_dict().items()}
    torch.save(
        {"libradet": {"run_identity": {}}, "state_dict": tensors, "optimizer_states": [optimizer.state_dict()]}, path
    )
    return path, tuples_to_lists(asdict(TRAINING) | {"detector": asdict(detector.config)})


def wider(config):
    config.roi.fc_dim = 48


def frozen(config):
    config.backbone.frozen = True


def weighted(config):
    config.roi.class_balance = ClassBalanceConfig("eql_v2")


def sampled(config):
    config.roi.sampling.batch_size_per_image = 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wider, r"other layers \(roi.fc1.weight, .*\); restore --detector.roi.fc_dim 32, or start"),
        (frozen, r"trained tensors and cannot be resumed with .*; restore --detector.backbone.frozen false, or start"),
        (weighted, r"other layers \(roi.class_balance.*\); restore --detector.roi.class_balance null, or start"),
    ],
)
def test_other_layers_are_refused_with_the_setting(checkpoint, change, message):
    path, started = checkpoint
    config = tiny_config()
    change(config)
    with pytest.raises(UserError, match=message) as error:
        check_layers(path, Detector(config), TRAINING, started)
    assert str(error.value).startswith(f"{path}: the run was started with ")


def test_other_groups_are_refused_with_the_setting(checkpoint):
    path, started = checkpoint
    with pytest.raises(UserError, match="other groups of weights in the optimizer; restore --decay_norm_bias true"):
        check_layers(path, Detector(tiny_config()), replace(TRAINING, decay_norm_bias=False), started)


def test_averaging_cannot_be_ended(checkpoint, tmp_path):
    path, started = checkpoint
    averaged = tmp_path / "last.ckpt"
    torch.save(torch.load(path) | {"averaging_state": {}}, averaged)
    check_layers(averaged, Detector(tiny_config()), replace(TRAINING, ema=0.9), started)
    with pytest.raises(UserError, match=r"started with --ema 0\.9 and cannot be resumed without"):
        check_layers(averaged, Detector(tiny_config()), TRAINING, started | {"ema": 0.9})


def test_other_settings_are_accepted(checkpoint):
    path, started = checkpoint
    config = tiny_config()
    sampled(config)
    check_layers(path, Detector(config), replace(TRAINING, lr=0.3, max_epochs=24), started)
