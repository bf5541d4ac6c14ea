import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import box_iou, complete_box_iou, distance_box_iou, generalized_box_iou, sigmoid_focal_loss

from libradet.balance import balanced_l1_loss
from libradet.geometry.boxes import decode
from libradet.models.config import BoxLossConfig, FocalConfig
from libradet.models.losses import (
    box_loss,
    class_loss,
    focal_loss,
    focal_losses,
    localization_loss,
    num_samples_across_ranks,
    objectness_loss,
)

COUNT = torch.tensor(77.0)
KINDS = [
    BoxLossConfig("l1"),
    BoxLossConfig("smooth_l1"),
    BoxLossConfig("smooth_l1", beta=1 / 9),
    BoxLossConfig("balanced_l1", weight=2.0),
    BoxLossConfig("balanced_l1", beta=0.11, variant="mmdet"),
]


def test_classification_loss_matches_mmdetection(parity):
    z = parity("losses")
    logits = z["ce_softmax.input"].clone().requires_grad_()
    valid = z["label_weights"][None] > 0
    loss = class_loss(logits[None], z["ce_softmax.target"][None], valid, COUNT)
    loss.backward()
    torch.testing.assert_close(loss, z["ce_softmax.value_avg77"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits.grad, z["ce_softmax.grad"], rtol=1e-4, atol=1e-6)
    # There, label 0 is the one class, an object, and 1 the background.
    logits = z["ce_sigmoid.input"].clone().requires_grad_()
    loss = objectness_loss(logits.T, z["ce_sigmoid.target"][None] == 0, valid, COUNT)
    loss.backward()
    torch.testing.assert_close(loss, z["ce_sigmoid.value_avg77"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits.grad, z["ce_sigmoid.grad"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (BoxLossConfig("l1"), "l1"),
        (BoxLossConfig("smooth_l1"), "smooth_l1_b1"),
        (BoxLossConfig("smooth_l1", beta=1 / 9), "smooth_l1_b011"),
    ],
)
def test_localization_loss_matches_mmdetection(parity, config, key):
    z = parity("losses")
    # There, each coordinate has a weight of 0 or 1; here a row counts or not. So each coordinate is a row of its own.
    keep = z["bbox_weight"].flatten() > 0
    alone = F.pad((z["pred"] - z["target"]).reshape(1, -1, 1), (0, 3))
    loss = box_loss(alone, torch.zeros_like(alone), keep[None], COUNT, config)
    torch.testing.assert_close(loss, z[f"{key}.value_avg77"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", KINDS)
def test_localization_loss_sums_coordinates_of_positives(config):
    deltas, targets = torch.randn(2, 9, 4), torch.randn(2, 9, 4)
    positive = torch.rand(2, 9) < 0.5
    error = (deltas - targets)[positive]
    if config.type == "balanced_l1":
        terms = balanced_l1_loss(error, config.alpha, config.gamma, config.beta, config.variant)
    elif config.type == "l1":
        terms = error.abs()
    else:
        x = error.abs()
        terms = torch.where(x < config.beta, x**2 / (2 * config.beta), x - config.beta / 2)
    loss = box_loss(deltas, targets, positive, COUNT, config)
    torch.testing.assert_close(loss, config.weight * terms.sum() / 77)


@pytest.mark.parametrize("config", KINDS)
@pytest.mark.parametrize("padding", [float("nan"), float("inf"), 1e30])
def test_padding_has_no_effect_on_loss_and_gradient(config, padding):
    deltas, targets = torch.randn(1, 6, 4), torch.randn(1, 6, 4)
    positive = torch.tensor([[True, False] * 3])
    clean = deltas.clone().requires_grad_()
    dirty = deltas.masked_fill(~positive[..., None], padding).requires_grad_()
    wild = targets.masked_fill(~positive[..., None], padding)
    a = box_loss(clean, targets, positive, COUNT, config)
    b = box_loss(dirty, wild, positive, COUNT, config)
    a.backward()
    b.backward()
    assert torch.equal(a, b)
    assert torch.equal(clean.grad, dirty.grad)
    assert (dirty.grad[~positive] == 0).all()


def test_invalid_samples_are_ignored():
    logits, labels = torch.randn(2, 5, 4, requires_grad=True), torch.randint(4, (2, 5))
    valid = torch.tensor([[True, True, False, False, True], [False] * 5])
    loss = class_loss(logits, labels, valid, num_samples_across_ranks(valid))
    torch.testing.assert_close(loss, F.cross_entropy(logits[valid], labels[valid]))
    loss.backward()
    assert (logits.grad[~valid] == 0).all()
    nothing = class_loss(logits, labels, torch.zeros_like(valid), num_samples_across_ranks(torch.zeros_like(valid)))
    assert nothing == 0
    score, positive = torch.randn(2, 5), torch.rand(2, 5) < 0.5
    expected = F.binary_cross_entropy_with_logits(score[valid], positive[valid].float())
    torch.testing.assert_close(objectness_loss(score, positive, valid, num_samples_across_ranks(valid)), expected)


def test_count_is_at_least_one():
    assert num_samples_across_ranks(torch.zeros(3, 4, dtype=torch.bool)) == 1
    assert num_samples_across_ranks(torch.ones(3, 4, dtype=torch.bool)) == 12


@pytest.mark.parametrize(
    ("kind", "oracle"),
    [("giou", generalized_box_iou), ("diou", distance_box_iou), ("ciou", complete_box_iou), ("iou", box_iou)],
)
def test_iou_losses_match_torchvision(kind, oracle):
    corner = torch.rand(1, 9, 2) * 20
    boxes = torch.cat([corner, corner + 10 + torch.rand(1, 9, 2) * 20], dim=2)
    gt_boxes = boxes + torch.rand(1, 9, 4) * 4
    deltas = (torch.randn(1, 9, 4) * 0.2).requires_grad_()
    std, positive = (0.1, 0.1, 0.2, 0.2), torch.rand(1, 9) < 0.6
    config = BoxLossConfig(kind, weight=3.0)
    loss = localization_loss(deltas, boxes, gt_boxes.masked_fill(~positive[..., None], 0), positive, COUNT, config, std)
    decoded = decode(boxes, deltas, std)[0]
    expected = 3 * (1 - oracle(decoded, gt_boxes[0]).diag())[positive[0]].sum() / 77
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, deltas)
    assert gradient.isfinite().all()
    assert torch.equal(gradient.any(-1), positive)


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
@pytest.mark.parametrize("size", [0.0, 0.01, 20_000.0])
@pytest.mark.parametrize("magnitude", [0.0, 30.0, 1e5, 1e18])
def test_iou_losses_are_finite_for_any_prediction(kind, size, magnitude):
    """Boxes without area, beyond every image, and infinitely flat ones among them."""
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 4)[None]
    deltas = (signs * magnitude).requires_grad_()
    corner = torch.linspace(0, 19_000, signs.shape[1])[None, :, None].expand(1, -1, 2)
    boxes, gt_boxes = torch.cat([corner, corner + size], 2), torch.cat([corner + 1, corner + 30], 2)
    positive = torch.ones(signs.shape[:2], dtype=torch.bool)
    loss = localization_loss(deltas, boxes, gt_boxes, positive, COUNT, BoxLossConfig(kind))
    loss.backward()
    assert loss.isfinite()
    assert deltas.grad.isfinite().all()


def test_focal_loss_matches_mmdetection(parity):
    z = parity("losses")
    logits = z["focal.input"].clone().requires_grad_()
    valid = z["label_weights"][None] > 0
    loss = focal_loss(logits[None], z["focal.target"][None], valid, COUNT, FocalConfig())
    loss.backward()
    torch.testing.assert_close(loss, z["focal.value_avg77"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits.grad, z["focal.grad"], rtol=1e-4, atol=1e-6)


LOGITS = torch.cat([torch.linspace(-10, 10, 41), torch.tensor([-200.0, -60.0, -17.0, 17.0, 60.0, 200.0])])


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 5.0])
def test_focal_losses_match_torchvision(gamma):
    logits = LOGITS.view(1, -1, 1)
    for label in (0, 1):
        labels = torch.full(logits.shape[:2], label)
        own = logits.clone().requires_grad_()
        theirs = logits.double().requires_grad_()
        loss = focal_losses(own, labels, FocalConfig(gamma=gamma))
        expected = sigmoid_focal_loss(theirs, torch.full_like(theirs, 1.0 - label), 0.25, gamma)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-7)
        loss.sum().backward()
        expected.sum().backward()
        torch.testing.assert_close(own.grad.double(), theirs.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("gamma", [0.1, 0.2, 0.5, 0.9])
def test_gradients_of_focal_loss_with_small_gamma_are_those_of_the_closed_form(gamma):
    """torchvision's are NaN from a logit of 17 on."""
    right = LOGITS.double()  # logit of the label
    p, error = right.sigmoid(), (-right).sigmoid()
    slope = -error.pow(gamma) * (gamma * p * F.softplus(-right) + error)

    logits = LOGITS.clone().requires_grad_()
    focal_losses(
        logits.view(1, -1, 1), torch.zeros(1, len(LOGITS), dtype=torch.int64), FocalConfig(1.0, gamma)
    ).sum().backward()
    torch.testing.assert_close(logits.grad.double(), slope, rtol=1e-4, atol=1e-6)

    # In the softmax of two classes, the difference of the logits is that logit.
    pairs = torch.stack([LOGITS, torch.zeros_like(LOGITS)], 1)[None].requires_grad_()
    labels, valid = torch.zeros(pairs.shape[:2], dtype=torch.int64), torch.ones(pairs.shape[:2], dtype=torch.bool)
    class_loss(pairs, labels, valid, torch.ones(()), FocalConfig(1.0, gamma)).backward()
    torch.testing.assert_close(pairs.grad[0, :, 0].double(), slope, rtol=1e-4, atol=1e-6)
