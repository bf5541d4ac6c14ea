"""Weights that are loaded at once are not drawn at random before."""

import pytest
import torch

from libradet.interop.loading import load_checkpoint
from libradet.models.config import BackboneConfig
from libradet.models.detector import Detector
from libradet.models.random_init import without_random_init
from libradet.models.serialization import load_model, save_model
from tests.helpers.tiny_detectors import tiny_config, tiny_detector


def test_loading_draws_no_random_numbers(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(tiny_detector(), path)
    with torch.random.fork_rng():
        for load in (load_model, load_checkpoint):
            torch.manual_seed(0)
            before = torch.get_rng_state()
            load(path)
            assert torch.equal(torch.get_rng_state(), before)
        Detector(tiny_config())
        assert not torch.equal(torch.get_rng_state(), before), "initialization draws, or this test shows nothing"


@pytest.mark.parametrize("backbone", ["resnet18", "test_convnext", "swin_tiny_patch4_window7_224"])
def test_buffers_that_no_file_has_are_set(backbone):
    config = tiny_config()
    config.backbone = BackboneConfig(backbone)
    expected = Detector(config)
    with without_random_init():
        model = Detector(config)
    model.load_state_dict(expected.state_dict())
    buffers = dict(model.named_buffers())
    assert buffers.keys() - model.state_dict().keys(), "some are in no file, or this test shows nothing"
    assert all(torch.equal(buffers[name], buffer) for name, buffer in expected.named_buffers())
