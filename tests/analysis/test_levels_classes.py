"""Class level: frequencies, correlation, losses by class and confusions, with numbers computed by hand."""

import math

import numpy as np
import pytest
import torch

from libradet.analysis.candidates import candidates_of, capture_activations, stages_of
from libradet.analysis.levels.classes import (
    ClassLosses,
    TrainFrequency,
    class_frequency,
    class_options,
    class_results,
    confusion_counts,
    entropy,
    frequency_correlation,
    gini,
    rare_classes,
    summarize_imbalance,
    unseen_classes,
)
from libradet.analysis.report.class_figures import plot_class_losses, plot_classes
from libradet.analysis.report.figure_style import report_style, to_svg
from libradet.data.loader import make_loader
from libradet.data.read import read
from libradet.inference.predict import eval_mode
from libradet.models.class_balance import ClassWeights
from libradet.models.config import ClassBalanceConfig, FocalConfig
from libradet.models.zoo import make_config
from tests.analysis.test_levels_outcome import BOX, dataset, image, row

OTHER = [210.0, 210.0, 40.0, 40.0]


def test_concentration_of_frequencies():
    assert gini(np.array([5.0, 5.0, 5.0])) == 0
    assert gini(np.array([1.0, 3.0])) == pytest.approx(0.25), "differences 0, 2, 2, 0 over twice the mean 2"
    assert entropy(np.array([5.0, 5.0, 5.0])) == pytest.approx(1)
    assert entropy(np.array([1.0, 3.0])) == pytest.approx((math.log(4) - 0.75 * math.log(3)) / math.log(2))
    assert entropy(np.array([7.0])) == 1


def test_rank_correlation_of_precision_and_frequency():
    rows = [{"class": str(k), "objects": 10**k, "AP": 0.1 * k**3} for k in range(1, 6)]
    assert frequency_correlation(rows) == pytest.approx(1)
    assert frequency_correlation(rows[:4]) is None, "too few classes"
    assert frequency_correlation([row | {"AP": 0.5} for row in rows]) is None
    swapped = [row | {"train_objects": 10 ** (6 - k)} for k, row in enumerate(rows, start=1)]
    assert frequency_correlation(swapped) == pytest.approx(-1), "of the training split"


def test_rare_classes_have_less_than_a_tenth():
    rows = [{"class": str(n), "objects": n} for n in (100, 10, 9, 0)]
    assert rare_classes(rows) == ["9"]
    assert rare_classes([]) == []


def test_frequency_of_the_training_split():
    data = dataset(image(1, [BOX, BOX], [1, 1]), image(2, [BOX], [1], crowd=[True]), image(3, [BOX], [1]))
    data.images.append(image(4, [BOX], [0]))
    # dog is in two of four images, cat in one: the median is 0.375, printed with two digits.
    assert class_frequency(data, ["dog", "bird", "cat"]) == TrainFrequency(
        [3, 0, 1], [0.5, 0.0, 0.25], 0.38, pytest.approx(math.ceil(3 + math.sqrt(0.38 / 0.25)) / 4)
    )
    assert class_frequency(dataset(image(1, [], [])), ["cat", "dog"]).repeat_thresh is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("repeat_factor_thresh: 0.05", 0.05),
        ("max_epochs: 2", 0.0),
        (None, None),
        ("[1, 2", None),
        ("5", None),
        ("repeat_factor_thresh: many", None),
    ],
)
def test_options_that_the_model_was_trained_with(tmp_path, content, expected):
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    config = make_config("faster_rcnn")
    config.roi.class_balance = ClassBalanceConfig("seesaw")
    (tmp_path / "best.safetensors").touch()
    options = class_options(config, tmp_path / "best.safetensors")
    assert class_options(config, tmp_path / "model")["repeat_factor_thresh"] is None, "not a file of this folder"
    assert options == {"repeat_factor_thresh": expected, "class_balance": "seesaw", "can_balance_loss": True}
    config.roi.class_balance, config.roi.focal = None, FocalConfig()
    assert not class_options(config, "model")["can_balance_loss"], "they exclude each other"
    plain = class_options(make_config("retinanet"), "model")
    assert (plain["class_balance"], plain["can_balance_loss"]) == (None, False)


def test_losses_by_class():
    losses = ClassLosses(2)
    labels, loss = torch.tensor([[0, 1, 2], [2, 2, 0]]), torch.tensor([[1.0, 2.0, 3.0], [4.0, 99.0, 0.0]])
    chosen = torch.tensor([[True, True, True], [True, False, True]])
    losses.update(labels[:1], chosen[:1], loss[:1], 2 * loss[:1])
    losses.update(labels[1:], chosen[1:], loss[1:], loss[1:])
    assert losses.compute() == [
        {"samples": 2, "loss": pytest.approx(0.1), "gradient": pytest.approx(2 / 16)},
        {"samples": 1, "loss": pytest.approx(0.2), "gradient": pytest.approx(4 / 16)},
        {"samples": 2, "loss": pytest.approx(0.7), "gradient": pytest.approx(10 / 16)},
    ]
    assert ClassLosses(1).compute() == [{"samples": 0, "loss": None, "gradient": None}] * 2


def test_confusions():
    data = dataset(image(1, [BOX, OTHER], [0, 1]), image(2, [BOX, OTHER], [0, 0]), image(3, [BOX], [1], crowd=[True]))
    rows = [
        row(BOX, 5, score=0.9),  # the cat of image 1, called dog: of the higher score, so it is matched
        row(BOX, 3, score=0.8),
        row(OTHER, 5),
        row([20, 20, 40, 40], 3, image=2),  # IoU 30² / (2 * 40² - 30²) = 0.39
        row(OTHER, 3, image=2),
        row(BOX, 3, image=3),
    ]
    assert confusion_counts(data, np.array(rows, float)).tolist() == [[1, 1, 1], [0, 1, 0]]
    assert confusion_counts(data, np.zeros((0, 7))).tolist() == [[0, 0, 3], [0, 0, 1]]


def test_detections_share_objects_by_the_largest_iou():
    near = [BOX[0] + 8, BOX[1], 40.0, 40.0]  # IoU 32 / 48 with BOX
    data = dataset(image(1, [BOX, near], [0, 1]))
    detections = np.array([row(near, 5, score=0.9), row(near, 3, score=0.8)], float)
    assert confusion_counts(data, detections).tolist() == [[1, 0, 0], [0, 1, 0]]


def measure(train=None):
    data = dataset(image(1, [BOX, BOX, BOX], [1, 1, 0], crowd=[False, False, True]), image(2, [BOX], [1]))
    metrics = {"per_class": {"cat": None, "dog": 0.5}, "per_class_AP50": {"cat": None, "dog": 0.75}}
    metrics["per_class_AR100"] = {"cat": None, "dog": 0.6}
    losses = [{"samples": n, "loss": 0.25, "gradient": 0.125} for n in (1, 2)]
    return class_results(metrics, data, train, np.array([[0, 0, 0], [2, 1, 0]]), losses)


def test_class_results():
    dog, cat = measure()
    assert dog == {
        "class": "dog",
        "objects": 3,
        "train_objects": None,
        "AP": 0.5,
        "AP50": 0.75,
        "AR100": 0.6,
        "samples": 2,
        "loss": 0.25,
        "gradient": 0.125,
        "as_other": pytest.approx(2 / 3),
        "as_more_frequent": 0.0,
    }
    assert (cat["class"], cat["objects"], cat["AP"], cat["as_other"]) == ("cat", 0, None, None)
    by_train = measure(TrainFrequency([90, 4], [0.9, 0.1], 0.5, 1.0))
    assert [(r["class"], r["train_objects"]) for r in by_train] == [("cat", 90), ("dog", 4)]
    assert by_train[1]["as_more_frequent"] == pytest.approx(2 / 3)
    confusion = {"classes": ["cat", "dog"], "counts": [[0, 0, 0], [2, 1, 0]]}
    assert summarize_imbalance(by_train, confusion) == {
        "ratio": 22.5,
        "gini": pytest.approx(86 / 4 * 2 / 94),
        "entropy": pytest.approx(entropy(np.array([90.0, 4.0]))),
        "correlation": None,
        "rare": ["dog"],
        "rare_as_frequent": pytest.approx(2 / 3),
    }


@pytest.mark.parametrize("name", ["faster_rcnn", "retinanet"])
def test_gradient_of_the_classification_loss(name, data, make_detector):
    """That of cross entropy is twice 1 - p at the logits; weights of classes scale loss and gradient."""
    model = make_detector(name, data)
    images, _ = read(data, "val")
    batch = next(iter(make_loader(images, size=(96, 128), batch_size=2, training=False, num_workers=0)))
    stage = stages_of(model.config)[-1]
    with eval_mode(model), torch.inference_mode(), capture_activations(model) as activations:
        model(batch)
        candidates = candidates_of(stage, model, activations, batch)
        if model.roi is not None:
            model.roi.box_heads[0].class_balance = ClassWeights([1.0, 2.0, 3.0])
        weighted = candidates_of(stage, model, activations, batch)
    assert torch.equal(candidates.labels < 3, candidates.matches.gt >= 0)
    torch.testing.assert_close(candidates.class_loss, candidates.loss)
    assert (candidates.gradient > 0).all()
    if model.roi is not None:
        torch.testing.assert_close(candidates.gradient, 2 * (1 - (-candidates.loss).exp()))
        weights = torch.tensor([1.0, 2.0, 3.0, 1.0])[candidates.labels]
        torch.testing.assert_close(weighted.class_loss, weights * candidates.class_loss)
        torch.testing.assert_close(weighted.gradient, weights * candidates.gradient)
        torch.testing.assert_close(weighted.loss, candidates.loss)


@pytest.mark.parametrize(("number", "labels", "bars"), [(1, 1, 2), (6, 6, 7), (80, 7, 10)])
def test_figures_of_few_and_many_classes(number, labels, bars):
    # The most frequent of many classes is also that of the lowest AP: seven of them are labeled.
    rows = [
        {"class": f"class with a long name {i}", "objects": 3000 // (i + 1), "train_objects": None}
        | {"AP": (i * 37 % 80 + 1) / 81, "samples": 5, "loss": 0.5 / number, "gradient": 0.5 / number}
        for i in range(number)
    ]
    background = {"samples": 50, "loss": 0.5, "gradient": 0.5}
    with report_style():
        classes, losses = plot_classes(rows), plot_class_losses({"rows": rows, "background": background})
        assert len(classes.axes[0].texts) == labels
        assert len(losses.axes[0].get_yticklabels()) == bars
        widths = [patch.get_width() for patch in losses.axes[0].patches]
        assert sum(widths) == pytest.approx(3), "the shares of samples, loss and gradient"
        assert "<svg" in to_svg(classes, "classes")


def test_names_of_classes_are_not_below_an_ap_of_zero():
    counts, precisions = (100, 100, 90, 80, 70, 60), (0.5, 0.0, 0.0, 0.01, 0.0, 0.0)
    rows = [
        {"class": f"class {i}", "objects": count, "train_objects": None, "AP": precision}
        for i, (count, precision) in enumerate(zip(counts, precisions, strict=True))
    ]
    with report_style():
        figure = plot_classes(rows)
        figure.draw_without_rendering()
        (axis,) = figure.axes
        assert len(axis.texts) >= 4
        assert min(text.get_window_extent().y0 for text in axis.texts) >= axis.bbox.y0


def test_classes_that_are_evaluated_but_not_trained():
    rows = [
        {"class": name, "objects": objects, "train_objects": train}
        for name, objects, train in (("both", 3, 9), ("unseen", 3, 0), ("neither", 0, 0))
    ]
    assert unseen_classes(rows) == ["unseen"]
    assert unseen_classes([row | {"train_objects": None} for row in rows]) == [], "the same images are both"
