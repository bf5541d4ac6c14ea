"""Fixtures of the tests of evaluation."""

import pytest
import torch

from libradet.models.build import create_model
from libradet.models.config import RoIConfig
from libradet.models.zoo import make_config


@pytest.fixture(scope="session")
def random_detector():
    """A small detector with random weights and detections in every image."""
    torch.manual_seed(0)
    config = make_config("libra_faster_rcnn", 3, "resnet18")
    config.image.size, config.pyramid.channels = (64, 96), 32
    config.roi = config.roi or RoIConfig()
    config.roi.fc_dim, config.detections.score_thresh = 64, 0.0
    return create_model(config=config, class_names=("cat", "dog", "bird"))
