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
from libradet.models.box_head import labels_of, match_proposals, training_candidates
from libradet.models.class_balance import SeesawLoss, class_weights, needs_frequencies
from libradet.models.config import ClassBalanceConfig, FocalConfig, SamplingConfig
from libradet.models.config_validation import validate_config
from libradet.models.serialization import load_model, save_model
from tests.helpers.tiny_detectors import tiny_batch, tiny_config, tiny_detector

KINDS = ["inverse_frequency", "effective_number", "seesaw", "eql_v2"]
FREQUENCIES = (1000, 100, 10, 0)


def test_inverse_frequency_has_mean_one_and_falls_with_frequency():
    weights = class_weights(ClassBalanceConfig("inverse_frequency", frequencies=FREQUENCIES), 4)
    assert sum(weights[:3]) / 3 == pytest.approx(1)
    assert weights[1] / weights[0] == pytest.approx(10)
    # A class without an object weighs as much as one with a single object.
    assert weights[3] / weights[2] == pytest.approx(10)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
def test_effective_number_is_the_geometric_sum_of_its_authors(beta):
    weights = class_weights(ClassBalanceConfig("effective_number", beta=beta, frequencies=FREQUENCIES), 4)
    effective = [math.fsum(beta**i for i in range(max(n, 1))) for n in FREQUENCIES]
    mean = sum(1 / number for number in effective[:3]) / 3  # of classes with objects
    assert weights == pytest.approx([1 / number / mean for number in effective])


@pytest.mark.parametrize("kind", KINDS[:2])
def test_classes_without_an_object_change_no_weight_of_others(kind):
    weights = class_weights(ClassBalanceConfig(kind, frequencies=(750, 200, 50)), 3)
    with_absent = class_weights(ClassBalanceConfig(kind, frequencies=(750, 200, 50, *[0] * 77)), 80)
    assert with_absent[:3] == pytest.approx(weights)
    assert class_weights(ClassBalanceConfig(kind, frequencies=(0, 0)), 2) == [1.0, 1.0]


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


@pytest.mark.parametrize(("p", "q"), [(0.8, 2.0), (0.3, 0.0), (0.0, 1.0)])
def test_seesaw_without_background_is_the_class_branch_of_mmdetection(p, q):
    """There, the background has a branch of its own: the softmax is that of the classes, on objects alone."""
    generator = torch.Generator().manual_seed(4)
    z = 4 * torch.randn(50, 5, generator=generator, dtype=torch.float64)
    labels, counts = torch.randint(5, (50,), generator=generator), torch.tensor([900.0, 50.0, 50.0, 0.0, 3.0]).double()
    frequency = counts.clamp(min=1)
    mitigation = torch.minimum((frequency[None] / frequency[labels, None]) ** p, torch.tensor(1.0))
    scores = z.exp() / z.exp().sum(1, keepdim=True)
    own = scores[torch.arange(50), labels][:, None]
    compensation = torch.maximum((scores / own.clamp(min=0.01)) ** q, torch.tensor(1.0))
    factors = (mitigation * compensation).scatter(1, labels[:, None], 1.0)
    expected = -(own[:, 0] / (factors * scores).sum(1)).log()
    loss = SeesawLoss(5, p, q).eval()
    loss.counts.copy_(counts)
    logits = torch.cat([z, torch.full((50, 1), -1e4)], 1).float()
    actual = loss(logits, labels, torch.ones(50, dtype=torch.bool))
    torch.testing.assert_close(actual, expected.float(), rtol=1e-4, atol=1e-5)


def test_seesaw_of_objects_is_that_of_mmdetection():
    """Losses of seesaw_ce_loss of mmdetection 3.3.0 in float64, on the same logits and counts."""
    logits = (3 * torch.cos(0.5 + 0.7 * torch.arange(35.0))).reshape(7, 5)
    loss = SeesawLoss(5, 0.8, 2.0).eval()
    loss.counts.copy_(torch.tensor([900, 50, 50, 0, 3]))
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 3])
    actual = loss(torch.cat([logits, torch.full((7, 1), -1e4)], 1), labels, torch.ones(7, dtype=torch.bool))
    expected = [0.02359175, 6.88212823, 10.91075273, 1.58803262, 0.40570114, 1.24248361, 5.71736533]
    assert actual.tolist() == pytest.approx(expected, rel=1e-4)


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


@pytest.mark.parametrize("kind", KINDS)
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
    assert has_counts == (kind in ("seesaw", "eql_v2"))


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


@pytest.mark.parametrize("kind", ["seesaw", "eql_v2"])
def test_weights_of_a_plain_detector_are_a_start(kind, tmp_path):
    save_model(tiny_detector(tiny_config("faster_rcnn")), tmp_path / "plain.safetensors")
    model = libradet.create_model(config=balanced_config(kind), weights=tmp_path / "plain.safetensors")
    assert model.reinitialized_layers == []
    assert all(buffer.sum() == 0 for buffer in model.roi.class_balance.buffers())


@pytest.mark.parametrize("kind", KINDS)
def test_ohem_ranks_by_the_balanced_loss_without_counting(kind):
    """Of the positives of classes 0 and 2, the two of each image with the largest balanced loss."""
    config = balanced_config(kind)
    config.roi.sampling = SamplingConfig(8, 0.25, "ohem", "ohem")
    model, batch = (
        tiny_detector(config).train(),
        tiny_batch(boxes=((5, 6, 50, 40), (30, 20, 90, 60)) * 3, labels=(0, 2, 2) * 2),
    )
    balance = model.roi.class_balance
    if kind == "seesaw":
        balance.counts.copy_(torch.tensor([1, 5, 1000]))
    elif kind == "eql_v2":
        balance.positive_gradients.copy_(torch.tensor([1.0, 1.0, 50.0]))
        balance.negative_gradients.copy_(torch.tensor([10.0, 10.0, 10.0]))
    else:
        model.set_class_frequencies((1, 5, 1000))
    before = {name: buffer.clone() for name, buffer in balance.named_buffers()}
    with torch.no_grad():
        pyramid = model.extract_features(batch)
        proposals = model.rpn.propose(model.rpn(pyramid), batch.sizes, training=True)
        samples = model.roi.sample_proposals(pyramid, proposals, batch)
        boxes, valid = training_candidates(proposals, batch, config.roi)
        matches = match_proposals(boxes, valid, batch, config.roi)
        logits = model.roi.run_box_head(pyramid, boxes, valid).logits
    assert all(torch.equal(buffer, before[name]) for name, buffer in balance.named_buffers())
    labels = labels_of(matches.gt, batch, 3)
    loss = balance.eval()(logits.flatten(0, 1), labels.flatten(), valid.flatten()).view(labels.shape)
    for b in range(2):
        wanted = loss[b][matches.gt[b] >= 0].sort(descending=True).values[:2]
        chosen = samples.boxes[b][samples.positive[b]]
        rows = (boxes[b][:, None] == chosen).all(-1).float().argmax(0)
        torch.testing.assert_close(loss[b][rows].sort(descending=True).values, wanted)


@pytest.mark.parametrize("kind", ["seesaw", "eql_v2"])
def test_a_step_with_ohem_counts_its_samples_once(kind):
    config = balanced_config(kind)
    config.roi.sampling = SamplingConfig(64, positives="ohem", negatives="ohem")
    model = tiny_detector(config).train()
    model(tiny_batch())
    balance = model.roi.class_balance
    if kind == "seesaw":
        assert 0 < balance.counts.sum() <= 2 * 16, "at most a quarter of 64 samples of two images"
        assert balance.counts[1] == 0
    else:
        assert 0 < balance.positive_gradients.sum() <= 2 * 16, "no gradient is above 1"
        assert balance.positive_gradients[1] == 0


def test_training_counts_the_objects(tmp_path):
    synthesize(tmp_path / "data", train=4, val=2, size=(96, 80), classes=3)
    config = balanced_config("effective_number")
    config.image.size = (64, 96)
    result = libradet.train(
        data=str(tmp_path / "data"),
        detector=config,
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
