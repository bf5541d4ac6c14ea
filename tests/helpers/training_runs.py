"""Settings and contents of tiny training runs."""

import torch

from libradet.models.config import DetectorConfig
from libradet.models.zoo import make_config
from libradet.training.resume import read_checkpoint

# Six batches per epoch; averaged weights and accumulated gradients have state of their own.
SETTINGS = (
    "--ema",
    "0.9",
    "--accumulate_grad_batches",
    "2",
    "--save_every_n_steps",
    "1",
    "--check_val_every_n_epoch",
    "2",
    "--max_epochs",
    "3",
)


def tiny_config() -> DetectorConfig:
    """Return a narrow Faster R-CNN for small images."""
    config = make_config("faster_rcnn", 2, "test_resnet")
    config.image.size, config.pyramid.channels, config.roi.fc_dim = (64, 96), 16, 32
    return config


def rows(folder):
    """Steps in metrics.csv."""
    path = folder / "metrics.csv"
    return [line.split(",")[0] for line in path.read_text().splitlines()[1:]] if path.exists() else []


def weights(folder):
    """Everything that training changes: weights, averaged weights, statistics, momentum."""
    checkpoint = read_checkpoint(folder / "last.ckpt")
    momentum = [state["momentum_buffer"] for state in checkpoint["optimizer_states"][0]["state"].values()]
    return [*checkpoint["state_dict"].values(), *checkpoint["current_model_state"].values(), *momentum]


def assert_same(one, other):
    assert len(one) == len(other)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
