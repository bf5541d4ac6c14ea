"""Tests of the LightningModule without a Trainer."""

from types import SimpleNamespace

import pytest

from libradet.training.config import TrainConfig
from libradet.training.module import DetectorModule
from tests.helpers.tiny_detectors import tiny_batch, tiny_detector


class FewBatches(DetectorModule):
    batches_per_epoch = 10


@pytest.fixture(scope="module")
def detector():
    return tiny_detector()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(("precision", "fused"), [("32-true", True), ("bf16-mixed", None)])
def test_steps_on_a_cpu_are_fused_in_float32(detector, optimizer, precision, fused):
    module = FewBatches(detector, TrainConfig(data="", optimizer=optimizer))
    module._trainer = SimpleNamespace(precision=precision, accumulate_grad_batches=1, max_steps=-1, max_epochs=2)
    groups = module.configure_optimizers()["optimizer"].param_groups
    assert [group["fused"] for group in groups] == [fused] * len(groups)


@pytest.mark.parametrize(("max_steps", "progress"), [(None, 0.1), (10, 0.4), (99, 0.1)])
def test_max_steps_shorten_the_schedules_of_samplers(detector, monkeypatch, max_steps, progress):
    seen = []
    monkeypatch.setattr(detector, "set_training_progress", seen.append)
    module = FewBatches(detector, TrainConfig(data="", max_steps=max_steps))
    state = {"estimated_stepping_batches": 40, "accumulate_grad_batches": 2, "current_epoch": 0, "global_rank": 0}
    module._trainer = SimpleNamespace(**state)
    module.on_train_batch_start(tiny_batch(), 8)
    assert seen == [pytest.approx(progress)]
