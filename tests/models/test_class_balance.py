"""Losses that balance classes: against the authors' formulas in float64, and in the training of a detector."""

import math

import pytest
import torch
from torch.nn import functional as F

import libradet
from libradet.data.read import read
from libradet.data.repeat_factors import count_objects
from libradet.data.synthesis.synthetic import synthesize
from libradet.errors import UserError
from libradet.models.class_balance import SeesawLoss, class_weights, needs_frequencies
from libradet.models.config import ClassBalanceConfig, FocalConfig
from libradet.models.config_validation import validate_config
from libradet.models.serialization import load_model, save_model
from tests.helpers.tiny_detectors import tiny_batch, tiny_config, tiny_detector

FREQUENCIES = (1000, 100, 10, 0)


def test_inverse_frequency_has_mean_one_and_falls_with_frequency():
    weights = class_weights(ClassBalanceConfig("inverse_frequency", frequencies=FREQUENCIES), 4)
    assert sum(weights) / 4 == pytest.approx(1)
    assert weights[1] / weights[0] == pytest.approx(10)
    # A class without an object weighs as much as one with a single object.
    assert weights[3] / weights[2] == pytest.approx(10)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
def test_effective_number_is_the_geometric_sum_of_its_authors(beta):
    weights = class_weights(ClassBalanceConfig("effective_number", beta=beta, frequencies=FREQUENCIES), 4)
    effective = [math.fsum(beta**i for i in range(max(n, 1))) for n in FREQUENCIES]
    mean = sum(1 / number for number in effective) / 4
    assert weights == pytest.approx([1 / number / mean for number in effective])


def test_without_frequencies_all_classes_weigh_the_same():
    assert class_weights(ClassBalanceConfig("inverse_frequency"), 3) == [1.0, 1.0, 1.0]


def seesaw_by_definition(logits, labels, counts, p, q):
    """Equations 3 to 6 of the paper, sample by sample and class by class; the background is the last class."""
    background, losses = len(counts), []
    for z, i in zip(logits.double().tolist(), labels.tolist(), strict=True):
        scores = [math.exp(value) for value in z]
        total, denominator = math.fsum(scores), 0.0
        for j, exponential in enumerate(scores):
            factor = 1.0
            if i != j and background not in (i, j):
                if counts[i] > counts[j]:
                    factor *= (counts[j] / counts[i]) ** p
                if scores[j] > max(scores[i], 0.01 * total):
                    factor *= (scores[j] / max(scores[i], 0.01 * total)) ** q
            denominator += factor * exponential
        losses.append(-math.log(scores[i] / denominator))
    return torch.tensor(losses)


@pytest.mark.parametrize(("p", "q"), [(0.8, 2.0), (0.0, 2.0), (0.8, 0.0), (0.0, 0.0)])
def test_seesaw_equals_its_formula(p, q):
    generator = torch.Generator().manual_seed(3)
    logits, labels = 3 * torch.randn(40, 6, generator=generator), torch.randint(6, (40,), generator=generator)
    loss = SeesawLoss(5, p, q).eval()
    loss.counts.copy_(torch.tensor([900, 50, 50, 4, 1]))
    actual = loss(logits, labels, torch.ones(40, dtype=torch.bool))
    torch.testing.assert_close(actual, seesaw_by_definition(logits, labels, loss.counts.tolist(), p, q).float())
    if p == q == 0:
        torch.testing.assert_close(actual, F.cross_entropy(logits, labels, reduction="none"))


def test_seesaw_counts_valid_samples_before_it_uses_the_counts():
    loss = SeesawLoss(3, 0.8, 0.0)
    logits, labels = torch.zeros(5, 4), torch.tensor([0, 0, 2, 3, 1])
    valid = torch.tensor([True, True, True, True, False])
    losses = loss(logits, labels, valid)
    assert loss.counts.tolist() == [2, 0, 1]
    expected = seesaw_by_definition(logits, labels, [2, 1, 1], 0.8, 0.0)
    torch.testing.assert_close(losses, expected.float())
    loss.eval()(logits, labels, valid)
    assert loss.counts.tolist() == [2, 0, 1]


def balanced_config(kind, name="faster_rcnn"):
    config = tiny_config(name)
    config.roi.class_balance = ClassBalanceConfig(kind)
    return config


@pytest.mark.parametrize("kind", ["inverse_frequency", "effective_number", "seesaw"])
@pytest.mark.parametrize("name", ["faster_rcnn", "cascade_rcnn"])
def test_detectors_train_with_it_and_are_saved(kind, name, tmp_path):
    model = tiny_detector(balanced_config(kind, name)).train()
    losses = model(tiny_batch())
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config.roi.class_balance == model.config.roi.class_balance
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    has_counts = any("class_balance" in name for name in loaded.state_dict())
    assert has_counts == (kind == "seesaw")


def test_class_weights_scale_the_loss_of_their_class():
    model, batch = tiny_detector(balanced_config("inverse_frequency")).train(), tiny_batch(labels=(0, 0))
    model.backbone.eval()

    def class_losses(frequencies):
        model.set_class_frequencies(frequencies)
        torch.manual_seed(0)
        return model(batch)["class"].item()

    equal, rare, frequent = class_losses((5, 5, 5)), class_losses((1, 9, 9)), class_losses((9, 1, 1))
    assert rare > equal > frequent
    assert model.config.roi.class_balance.frequencies == (9, 1, 1)


def test_weights_of_a_plain_detector_are_a_start(tmp_path):
    save_model(tiny_detector(tiny_config("faster_rcnn")), tmp_path / "plain.safetensors")
    model = libradet.create_model(config=balanced_config("seesaw"), weights=tmp_path / "plain.safetensors")
    assert model.reinitialized_layers == []
    assert model.roi.class_balance.counts.sum() == 0


def test_training_counts_the_objects(tmp_path):
    synthesize(tmp_path / "data", train=4, val=2, size=(96, 80), classes=3)
    result = libradet.train(
        data=str(tmp_path / "data"),
        detector=balanced_config("effective_number"),
        max_epochs=1,
        max_steps=1,
        output_dir=str(tmp_path / "run"),
        num_workers=0,
        precision="fp32",
        num_val_images_logged=0,
    )
    dataset, _ = read(tmp_path / "data", "train")
    config = load_model(result.weights).config
    assert config.roi.class_balance.frequencies == tuple(count_objects(dataset))
    assert not needs_frequencies(config)


def test_contradictions_are_refused():
    config = balanced_config("seesaw")
    config.roi.focal = FocalConfig()
    with pytest.raises(UserError, match=r"roi.focal and roi.class_balance exclude each other"):
        validate_config(config)
    config.roi.focal, config.roi.class_balance.frequencies = None, (1, 2)
    with pytest.raises(UserError, match=r"roi.class_balance.frequencies has 2 entries"):
        validate_config(config)
