"""The loss of masks against torchvision's."""

import pytest
import torch
from torchvision.models.detection import roi_heads

from libradet.errors import UserError
from libradet.geometry.masks import pack_masks
from libradet.models.box_head import SampledProposals, roi_pool
from libradet.models.config import MaskConfig
from libradet.models.mask_head import MaskHead
from tests.helpers.tiny_detectors import ellipses, tiny_batch, tiny_detector, tiny_zoo_config

STRIDES = (4, 8)


@pytest.fixture
def case():
    """Two images of three ellipses, and six boxes near them; some slots hold no positive."""
    boxes = ((5.0, 6, 50, 40), (30, 20, 90, 60), (2, 2, 20, 60))
    batch = tiny_batch(boxes, (0, 2, 1), masks=True)
    gt = torch.tensor([[0, 1, 2, 1, -1, 0], [2, -1, 0, 0, 1, -2]])
    positive = gt >= 0
    positive[0, 5] = False
    boxes_near = batch.boxes.gather(1, gt.clamp(min=0)[..., None].expand(-1, -1, 4)) + torch.randn(2, 6, 4) * 2
    labels = batch.labels.gather(1, gt.clamp(min=0)).where(positive, 3)
    samples = SampledProposals(boxes_near, gt, labels, torch.ones_like(positive), positive, torch.zeros_like(positive))
    config = MaskConfig(num_convs=1, channels=8, weight=2.0)
    config.align.num_levels = 2
    pyramid = [torch.randn(2, 8, 64 // s, 96 // s) for s in STRIDES]
    return batch, samples, MaskHead(8, 3, STRIDES, config), pyramid, config


def test_loss_matches_torchvision(case, monkeypatch):
    """Mean over cells and positives of their own class; binary targets, cropped as RoIAlign crops features."""
    batch, samples, head, pyramid, config = case
    project = roi_heads.project_masks_on_boxes

    def aligned(masks, boxes, rows, size):
        return (project(masks, boxes - 0.5, rows, size) >= 0.5).float()

    monkeypatch.setattr(roi_heads, "project_masks_on_boxes", aligned)
    ours = head.loss(pyramid, samples, batch)
    logits = head(roi_pool(pyramid, samples.boxes, samples.positive, STRIDES, config.align)).unflatten(0, (2, 6))
    chosen = samples.positive
    theirs = roi_heads.maskrcnn_loss(
        logits[chosen],
        [samples.boxes[b, chosen[b]] for b in range(2)],
        list(batch.masks),
        list(batch.labels),
        [samples.gt[b, chosen[b]] for b in range(2)],
    )
    torch.testing.assert_close(ours, 2 * theirs)
    assert chosen.sum() == 8


def test_packed_masks_have_the_same_loss(case):
    batch, samples, head, pyramid, _ = case
    whole = head.loss(pyramid, samples, batch)
    packed = batch._replace(masks=pack_masks(batch.masks))
    assert packed.masks.numel() * 8 == batch.masks.numel()
    assert torch.equal(head.loss(pyramid, samples, packed), whole)


def test_only_positives_and_their_class_receive_gradients(case):
    batch, samples, head, pyramid, _ = case
    none = samples._replace(positive=torch.zeros_like(samples.positive))
    loss = head.loss(pyramid, none, batch)
    loss.backward()
    assert loss == 0
    assert all((p.grad == 0).all() for p in head.parameters())
    one = samples._replace(positive=samples.positive & (samples.labels == 2))
    head.loss(pyramid, one, batch).backward()
    assert head.logits.bias.grad.ne(0).tolist() == [False, False, True]


def test_batches_without_masks_are_refused():
    model = tiny_detector(tiny_zoo_config("mask_rcnn")).train()
    with pytest.raises(UserError, match="trained on masks"):
        model(tiny_batch(size=(64, 128)))


def test_a_training_step_on_packed_masks():
    model = tiny_detector(tiny_zoo_config("libra_mask_rcnn")).train()
    batch = tiny_batch(size=(64, 128))
    batch = batch._replace(masks=pack_masks(ellipses(batch.boxes, 64, 128)))
    losses = model(batch)
    losses["mask"].backward()
    assert losses["mask"] > 0
    assert model.mask.deconv.weight.grad.abs().sum() > 0
