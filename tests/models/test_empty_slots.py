"""Tests that empty slots are not computed in eager mode on a CPU, and that this changes no detection and no loss."""

import pytest
import torch
from torch import nn

from libradet.models.empty_slots import count_used_slots
from tests.helpers.tiny_detectors import compute_all_slots, lively, tiny_batch, tiny_detector, tiny_zoo_config


@pytest.mark.parametrize(
    ("valid", "count"), [([[1, 0, 1, 0], [0, 0, 0, 0]], 3), ([[0, 0], [0, 0]], 1), ([[1, 1], [0, 1]], 2)]
)
def test_slots_up_to_the_last_filled_one(valid, count):
    assert count_used_slots(torch.tensor(valid).bool()) == count


def test_all_slots_count_in_a_graph():
    valid = torch.tensor([[True, False, False]])
    program = torch.export.export(_Slots(), (torch.zeros(1, 3, dtype=torch.bool),))
    assert program.module()(valid).shape == (1, 3)
    assert _Slots()(valid).shape == (1, 1)


class _Slots(nn.Module):
    def forward(self, valid):
        return valid[:, : count_used_slots(valid)].clone()


@pytest.mark.parametrize("name", ["faster_rcnn", "cascade_rcnn", "mask_rcnn"])
def test_detections_are_those_of_all_slots(name, monkeypatch):
    config = tiny_zoo_config(name)
    config.rpn.test_proposals.post_nms_top_n, config.detections.score_thresh = 400, 0.2
    model, batch = lively(tiny_detector(config)).eval(), tiny_batch()
    rows = []
    heads = [head.fc1 for head in model.roi.box_heads] + ([model.mask.deconv] if model.mask else [])
    for layer in heads:
        layer.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    with torch.no_grad():
        skipped = model(batch)
        compute_all_slots(monkeypatch)
        computed = model(batch)
    half = len(rows) // 2
    assert all(few < all_rows for few, all_rows in zip(rows[:half], rows[half:], strict=True))
    assert torch.equal(skipped.valid, computed.valid)
    assert torch.equal(skipped.labels, computed.labels)
    assert 0 < skipped.valid.sum() < skipped.valid.numel()
    torch.testing.assert_close(skipped.boxes, computed.boxes, atol=1e-3, rtol=0)
    torch.testing.assert_close(skipped.scores, computed.scores, atol=1e-5, rtol=0)
    if skipped.masks is not None:
        torch.testing.assert_close(skipped.masks, computed.masks, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["faster_rcnn", "balanced_faster_rcnn", "cascade_rcnn", "mask_rcnn"])
def test_losses_and_gradients_are_those_of_all_slots(name, monkeypatch):
    config = tiny_zoo_config(name)
    config.roi.sampling.batch_size_per_image = 128  # of 60 proposals
    model, batch = tiny_detector(config), tiny_batch(masks=name == "mask_rcnn")
    rows = []
    heads = [head.fc1 for head in model.roi.box_heads] + ([model.mask.deconv] if model.mask else [])
    for layer in heads:
        layer.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    skipped = _losses_and_gradients(model, batch)
    compute_all_slots(monkeypatch)
    computed = _losses_and_gradients(model, batch)
    half = len(rows) // 2
    assert all(few < all_rows for few, all_rows in zip(rows[:half], rows[half:], strict=True))
    torch.testing.assert_close(skipped, computed, atol=1e-6, rtol=1e-4)


def _losses_and_gradients(model, batch):
    torch.manual_seed(0)
    losses = model.train()(batch)
    model.zero_grad()
    sum(losses.values()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()} | gradients
