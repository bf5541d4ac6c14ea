"""Equalization loss v2: against its authors' formula in float64, and in the scores of detectors."""

import math

import pytest
import torch

import libradet
from libradet.errors import UserError
from libradet.interop.saving import to_foreign_state_dict
from libradet.models.class_balance import EqualizationLoss, class_scores, unbalanced_losses
from libradet.models.config import ClassBalanceConfig
from tests.helpers.exported_detectors import scene, shape_checks_disabled, small_detector
from tests.helpers.tiny_detectors import tiny_batch, tiny_config, tiny_detector


def test_two_samples_by_hand():
    """Logits of 0: each gradient is 1/2 times its weight, each binary cross entropy log 2 times its weight."""
    loss, logits = EqualizationLoss(1, gamma=12.0, mu=0.8, alpha=4.0), torch.zeros(2, 2)
    labels, valid = torch.tensor([0, 1]), torch.ones(2, dtype=torch.bool)
    assert loss(logits, labels, valid).tolist() == pytest.approx([2 * math.log(2)] * 2)
    # Gradients of 1/2 and 1/2 have a ratio of 1.
    negative = 1 / (1 + math.exp(-12 * 0.2))
    positive = 1 + 4 * (1 - negative)
    expected = [math.log(2) * (1 + positive), math.log(2) * (1 + negative)]
    assert loss(logits, labels, valid).tolist() == pytest.approx(expected)
    assert loss.positive_gradients.item() == pytest.approx(0.5 + 0.5 * positive)
    assert loss.negative_gradients.item() == pytest.approx(0.5 + 0.5 * negative)


def equalization_by_definition(logits, labels, gradients, gamma, mu, alpha):
    """Losses, gradients at the logits, and updated sums; sample by sample and class by class, background last."""
    positive, negative = gradients
    num_classes = len(positive)
    new_positive, new_negative, losses, slopes = list(positive), list(negative), [], []
    for z, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        total, row = 0.0, []
        for j, value in enumerate(z):
            f = 1.0
            if j < num_classes and negative[j] > 0:
                f = 1 / (1 + math.exp(-gamma * (positive[j] / negative[j] - mu)))
            weight = 1 + alpha * (1 - f) if j == label else f
            score = 1 / (1 + math.exp(-value))
            total -= weight * math.log(score if j == label else 1 - score)
            row.append(weight * (score - (j == label)))
            if j < num_classes:
                sums = new_positive if j == label else new_negative
                sums[j] += abs(row[-1])
        losses.append(total)
        slopes.append(row)
    return torch.tensor(losses), torch.tensor(slopes), (new_positive, new_negative)


@pytest.mark.parametrize(("gamma", "mu", "alpha"), [(12.0, 0.8, 4.0), (3.0, 0.2, 1.0), (12.0, 0.8, 0.0)])
def test_equals_its_formula_over_several_steps(gamma, mu, alpha):
    generator = torch.Generator().manual_seed(3)
    loss, gradients = EqualizationLoss(4, gamma, mu, alpha), ([0.0] * 4, [0.0] * 4)
    for _ in range(4):
        logits = (2 * torch.randn(30, 5, generator=generator) - 1).requires_grad_()
        # Class 3 never occurs, class 0 often.
        labels = torch.tensor([0, 0, 0, 1, 2, 4])[torch.randint(6, (30,), generator=generator)]
        valid = torch.arange(30) < 24
        actual = loss(logits, labels, valid)
        expected, slopes, _ = equalization_by_definition(logits, labels, gradients, gamma, mu, alpha)
        torch.testing.assert_close(actual, expected.float())
        (slope,) = torch.autograd.grad(actual.sum(), logits)
        torch.testing.assert_close(slope, slopes.float())
        *_, gradients = equalization_by_definition(logits[valid], labels[valid], gradients, gamma, mu, alpha)
        torch.testing.assert_close(loss.positive_gradients, torch.tensor(gradients[0]).float())
        torch.testing.assert_close(loss.negative_gradients, torch.tensor(gradients[1]).float())
    assert loss.positive_gradients[3] == 0
    before = loss.positive_gradients.clone()
    torch.testing.assert_close(loss.eval()(logits, labels, valid), loss.sample_losses(logits, labels))
    assert torch.equal(loss.positive_gradients, before)


def test_four_steps_are_those_of_mmdetection():
    """Losses and sums of gradients of EQLV2Loss of mmdetection 3.3.0 in float64, on the same logits."""
    loss, labels, valid = EqualizationLoss(4, 12.0, 0.8, 4.0), torch.tensor([0, 0, 0, 1, 2, 4]), torch.ones(6).bool()
    steps = [
        loss((3 * torch.cos(step + 0.7 * torch.arange(30.0))).reshape(6, 5), labels, valid).mean().item()
        for step in range(4)
    ]
    assert steps == pytest.approx([6.13163762, 4.77770839, 4.06537913, 3.99813856], rel=1e-5)
    assert loss.positive_gradients.tolist() == pytest.approx([9.99850624, 3.76898277, 5.96560566, 0.0], rel=1e-5)
    assert loss.negative_gradients.tolist() == pytest.approx([5.61277554, 2.80759726, 6.9416616, 3.0579708], rel=1e-5)


def test_scores_are_sigmoids_times_one_minus_the_background():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    scores = 1 / (1 + (-logits.double()).exp())
    expected = torch.cat([scores[..., :-1] * (1 - scores[..., -1:]), scores[..., -1:]], -1)
    torch.testing.assert_close(class_scores(logits, ClassBalanceConfig("eql_v2")), expected.float())
    for other in (None, ClassBalanceConfig("seesaw")):
        torch.testing.assert_close(class_scores(logits, other), logits.softmax(-1))


def test_losses_without_balance_are_those_of_its_first_step():
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 3, 0])
    expected = EqualizationLoss(3, 12.0, 0.8, 4.0).sample_losses(logits, labels)
    torch.testing.assert_close(unbalanced_losses(logits, labels, ClassBalanceConfig("eql_v2")), expected)


def sigmoid_detector(name, average="logits"):
    config = tiny_config(name)
    config.roi.class_balance = ClassBalanceConfig("eql_v2")
    if config.cascade is not None:
        config.cascade.average = average
    return tiny_detector(config)


@pytest.mark.parametrize(
    ("name", "average"), [("faster_rcnn", ""), ("cascade_rcnn", "logits"), ("cascade_rcnn", "scores")]
)
def test_detections_have_these_scores(name, average):
    model = sigmoid_detector(name, average).eval()
    assert class_scores(torch.full((1, 4), -6.9), model.config.roi.class_balance)[0, 0] < 0.0011
    outputs = []
    for head in model.roi.box_heads:
        assert torch.allclose(head.logits.bias.sigmoid(), torch.tensor(0.001)), "all classes begin rare"
        torch.nn.init.zeros_(head.logits.bias)
        head.logits.register_forward_hook(lambda module, inputs, output: outputs.append(output.double()))
    with torch.no_grad():
        detections = model(tiny_batch())

    def score(logits):
        sigmoids = 1 / (1 + (-logits).exp())
        return sigmoids[..., :-1] * (1 - sigmoids[..., -1:])

    logits = torch.stack(outputs)
    possible = score(logits).mean(0) if average == "scores" else score(logits.mean(0))
    found = detections.scores[detections.valid].double()
    assert len(found) > 20
    assert (found[:, None] - possible.flatten()).abs().amin(1).max() < 1e-6


def test_other_toolboxes_would_score_by_softmax():
    with pytest.raises(UserError, match=r"torchvision scores boxes by softmax, .* by sigmoid"):
        to_foreign_state_dict(sigmoid_detector("faster_rcnn"), "torchvision")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
@pytest.mark.parametrize("name", ["faster_rcnn", "cascade_rcnn"])
def test_exported_files_have_the_same_detections(name, suffix, tmp_path):
    model = small_detector(name, ClassBalanceConfig("eql_v2"))
    with shape_checks_disabled():
        libradet.export_model(model, tmp_path / f"model.{suffix}")
    exported = libradet.load_model(tmp_path / f"model.{suffix}")
    ours, theirs = (detector.predict(scene(120, 160), score_thresh=0.05) for detector in (model, exported))
    assert len(ours) == len(theirs) > 5
    torch.testing.assert_close(torch.tensor(ours.confidence), torch.tensor(theirs.confidence), rtol=0, atol=1e-4)
