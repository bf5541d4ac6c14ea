"""Weights of losses that are learned (Kendall et al., CVPR 2018)."""

import math

import pytest
import torch

from libradet.interop.saving import to_foreign_state_dict
from libradet.models.config import IoUConfig
from libradet.models.load_pretrained import load_matching_weights
from libradet.models.serialization import load_model, save_model
from libradet.models.uncertainty_weighting import UncertaintyWeighting, loss_names
from libradet.models.zoo import MODELS
from libradet.training.config import TrainConfig
from libradet.training.optim import parameter_groups
from tests.helpers.tiny_detectors import tiny_batch, tiny_detector, tiny_zoo_config


def learning(name="faster_rcnn", backbone="test_resnet"):
    config = tiny_zoo_config(name, backbone=backbone)
    config.uncertainty_weighting = True
    return config


def test_value_and_gradients_match_the_formula():
    weights = UncertaintyWeighting(["class", "box"])
    weights.log_variances.data.copy_(torch.tensor([0.7, -1.3]))
    losses = {"class": torch.tensor(2.5, requires_grad=True), "box": torch.tensor(0.4, requires_grad=True)}
    counted = weights(losses)
    for name, s in (("class", 0.7), ("box", -1.3)):
        assert counted[name].item() == pytest.approx(math.exp(-s) * losses[name].item() + s, rel=1e-6)
    sum(counted.values()).backward()
    assert losses["box"].grad.item() == pytest.approx(math.exp(1.3), rel=1e-6)
    expected = [1 - math.exp(-0.7) * 2.5, 1 - math.exp(1.3) * 0.4]
    assert weights.log_variances.grad.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_best_weight_of_a_loss_is_one_over_it():
    """d/ds (exp(-s) L + s) = 0 at s = ln L."""
    weights = UncertaintyWeighting(["small", "large"])
    optimizer = torch.optim.SGD(weights.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        sum(weights({"small": torch.tensor(0.2), "large": torch.tensor(5.0)}).values()).backward()
        optimizer.step()
    assert weights.log_variances.tolist() == pytest.approx([math.log(0.2), math.log(5)], abs=1e-3)


def test_zero_loss_has_no_gradient_for_its_variance():
    weights = UncertaintyWeighting(["class", "box"])
    counted = weights({"class": torch.tensor(1.5), "box": torch.tensor(0.0)})
    sum(counted.values()).backward()
    assert counted["box"] == 0
    assert weights.log_variances.grad.tolist() == [-0.5, 0]


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("libra")])
def test_every_loss_of_every_detector_is_weighted(name):
    """At first all are as without them, and their gradients reach every loss."""
    config = learning(name)
    if config.roi is not None:
        config.roi.iou = IoUConfig()
    batch = tiny_batch(size=(64, 128), masks=config.mask is not None, proposals=20)
    model = tiny_detector(config)
    torch.manual_seed(1)
    counted = model(batch)
    assert list(counted) == loss_names(config)
    torch.stack(list(counted.values())).sum().backward()
    assert model.loss_weights.log_variances.grad.all()
    model.loss_weights = None
    torch.manual_seed(1)
    plain = model(batch)
    assert all(torch.equal(plain[key], counted[key]) for key in counted)


def test_log_variances_are_saved_and_absent_if_off(tmp_path):
    assert not [n for n in tiny_detector().state_dict() if "loss_weights" in n]
    model = tiny_detector(learning()).eval()
    model.loss_weights.log_variances.data.normal_()
    save_model(model, tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert torch.equal(again.loss_weights.log_variances, model.loss_weights.log_variances)
    with torch.no_grad():
        assert torch.equal(again(tiny_batch()).boxes, model(tiny_batch()).boxes)


@pytest.mark.parametrize("spared", [False, True])
def test_log_variances_have_no_weight_decay(spared):
    model = tiny_detector(learning())
    decayed, rest = parameter_groups(model, TrainConfig(data="", decay_norm_bias=not spared))
    assert rest["weight_decay"] == 0
    own = model.loss_weights.log_variances
    assert any(p is own for p in rest["params"])
    assert not any(p is own for p in decayed["params"])
    assert len(rest["params"]) == 1 or spared
    assert len(decayed["params"]) + len(rest["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize(("mine", "theirs"), [(True, False), (False, True), (True, True)])
def test_log_variances_are_not_transferred(mine, theirs):
    model, trained = (tiny_detector(learning() if own else tiny_zoo_config("faster_rcnn")) for own in (mine, theirs))
    if trained.loss_weights is not None:
        trained.loss_weights.log_variances.data.fill_(2.0)
    torch.nn.init.ones_(trained.roi.logits.weight)
    assert load_matching_weights(model, trained) == []
    assert torch.equal(model.roi.logits.weight, trained.roi.logits.weight)
    assert model.loss_weights is None or not model.loss_weights.log_variances.any()


def test_log_variances_are_not_exported_to_other_toolboxes():
    plain = tiny_zoo_config("faster_rcnn", backbone="resnet18")
    names = to_foreign_state_dict(tiny_detector(plain), "torchvision").keys()
    assert to_foreign_state_dict(tiny_detector(learning(backbone="resnet18")), "torchvision").keys() == names
