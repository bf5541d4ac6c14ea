"""Gradients of losses with a closed form."""

import math

import pytest
import torch

from libradet.analysis.levels.gradient import GradientStatistics, measure_gradients, task_pairs
from tests.helpers.tiny_detectors import tiny_batch, tiny_detector, tiny_zoo_config


def test_norms_ratio_and_cosine():
    level = [torch.zeros(1, 2, 1, 1, requires_grad=True), torch.zeros(1, 2, 1, 1, requires_grad=True)]
    fine, coarse = (x.flatten() for x in level)
    losses = {"class": 3 * fine[0] + 4 * coarse[0] + 1, "box": 5 * fine[0] + 2}
    statistics = GradientStatistics()
    statistics.update(losses, {"pyramid": level}, level)
    result = statistics.compute(seed=0)
    assert result["losses"] == {"class": 1, "box": 2}
    assert result["norms"]["pyramid"] == pytest.approx({"class": 5, "box": 5})
    (pair,) = result["pairs"]
    assert pair["ratio"]["value"] == pytest.approx(1)
    assert pair["cosine"] == pytest.approx(3 / 5)
    assert result["levels"]["before"] == pytest.approx([8, 4])


def test_means_are_over_images():
    statistics = GradientStatistics()
    for factor in (1.0, 3.0):
        level = [torch.zeros(1, 1, 1, 1, requires_grad=True)]
        statistics.update({"class": factor * level[0].sum(), "box": level[0].sum()}, {"pyramid": level}, level)
    result = statistics.compute(seed=0)
    assert result["norms"]["pyramid"] == {"class": 2, "box": 1}
    assert result["pairs"][0]["ratio"]["value"] == 2


def test_levels_before_an_average_receive_the_gradient_of_all_levels_after_it():
    before = [torch.zeros(1, 1, 1, 1, requires_grad=True) for _ in range(2)]
    after = [x + (before[0] + before[1]) / 2 for x in before]
    statistics = GradientStatistics()
    statistics.update({"class": 2 * after[0].sum()}, {"pyramid": after}, before)
    assert statistics.compute(seed=0)["levels"] == {"before": [3, 1], "after": [2, 0]}


@pytest.mark.parametrize("name", ["libra_faster_rcnn", "retinanet", "libra_rpn", "cascade_rcnn"])
def test_the_model_is_left_unchanged(name):
    model = tiny_detector(tiny_zoo_config(name, backbone="resnet18"))
    model.rpn and model.rpn.eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    statistics = GradientStatistics()
    measure_gradients(model, [tiny_batch(num_images=1)], statistics, seed=0)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [part.training for part in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    result = statistics.compute(seed=0)
    assert {pair["class"] for pair in result["pairs"]} == {a for a, _ in task_pairs(list(result["losses"]))}
    assert len(result["levels"]["after"]) == 5


def test_losses_are_stated_without_the_log_variances_of_uncertainty_weighting():
    config = tiny_zoo_config("faster_rcnn", backbone="resnet18")
    config.uncertainty_weighting = True
    model = tiny_detector(config)
    results = []
    for log_variance in (0.0, -2.0):
        model.loss_weights.log_variances.data.fill_(log_variance)
        statistics = GradientStatistics()
        measure_gradients(model, [tiny_batch(num_images=1)], statistics, seed=0)
        results.append(statistics.compute(seed=0)["losses"])
    expected = {name: pytest.approx(math.exp(2) * value, rel=1e-4, abs=1e-6) for name, value in results[0].items()}
    assert results[1] == expected


def losses_at(progress, random_schedule):
    config = tiny_zoo_config("libra_faster_rcnn", backbone="resnet18")
    config.roi.sampling.batch_size_per_image, config.roi.sampling.random_schedule = 16, random_schedule
    model = tiny_detector(config)
    model.set_training_progress(progress)
    statistics = GradientStatistics()
    measure_gradients(model, [tiny_batch(num_images=1)], statistics, seed=0)
    assert {float(head.progress) for head in model.roi.box_heads if head.progress is not None} <= {progress}
    return statistics.compute(seed=0)["losses"]


def test_samplers_with_a_schedule_draw_as_at_its_end():
    assert losses_at(0.0, "linear") == losses_at(0.25, "linear") == losses_at(0.0, "constant")


def test_losses_are_paired_by_stage():
    names = ["rpn_class", "rpn_box", "class_1", "box_1", "class_2", "box_2", "mask"]
    assert task_pairs(names) == [("rpn_class", "rpn_box"), ("class_1", "box_1"), ("class_2", "box_2")]
