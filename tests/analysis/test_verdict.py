"""From numbers to sentences: where limits lie, and whether the commands would run."""

import shlex
from copy import deepcopy

import pytest

from libradet.analysis import thresholds as limits
from libradet.analysis.commands import train_command
from libradet.analysis.finding import grade
from libradet.analysis.judge_features import judge_pyramid
from libradet.analysis.judge_objective import judge_regression, judge_tasks
from libradet.analysis.judge_outcome import judge_classes, judge_errors, judge_sizes
from libradet.analysis.judge_samples import judge_coverage, judge_negatives, judge_positives
from libradet.models.zoo import MODELS, make_config
from libradet.train_options import parse_train


def share(value, low=None, high=None):
    return {"value": value, "low": value if low is None else low, "high": value if high is None else high}


def samples(hard=0.6, drawn=0.3, even=0.7, low=0.25, own="random", stage="roi", choice=1.0, spread=(0.3, 0.15)):
    rows = {
        "hard": hard,
        "random": drawn,
        "iou_balanced_paper_3": even,
        "own": drawn if own in ("all", "random") else even,
    }
    rows |= {"all": 0.1, "by_loss": 0.5}
    by_sampler = {
        name: {"top_tenth": top, "without": 0.1}
        for name, top in zip(("random", "instance_balanced"), spread, strict=True)
    }
    return {
        "stage": stage,
        "candidates": "proposals",
        "samples": stage != "dense",
        "own_negatives": own,
        "own_positives": "random",
        "negatives": {name: {"above": share(value)} for name, value in rows.items()},
        "gap": share(hard - drawn, low),
        "positives": {"images_with_choice": choice, "by_sampler": by_sampler},
    }


@pytest.mark.parametrize(
    ("value", "level"),
    [(0.3, "strong"), (0.2, "strong"), (0.19, "some"), (0.08, "some"), (0.07, "none"), (-1.0, "none")],
)
def test_limits_belong_to_the_stronger_side(value, level):
    assert grade(value, limits.GAP_STRONG, limits.GAP_SOME) == level
    assert grade(-value, -limits.GAP_STRONG, -limits.GAP_SOME) == level


def test_the_papers_own_numbers_are_a_strong_imbalance():
    finding = judge_negatives(samples(limits.PAPER_HARD, limits.PAPER_RANDOM))
    assert finding.level == "strong"
    assert finding.options == ["--detector.roi.sampling.negatives iou_balanced"]
    assert "30 points" in finding.text
    assert [number.value for number in finding.numbers] == [0.6, 0.3, 0.7]
    errors = regression(limits.PAPER_INLIER_RATIO)
    assert judge_regression(errors).level == "strong"


def test_what_the_interval_does_not_tell_from_none_is_undecided():
    finding = judge_negatives(samples(low=-0.01))
    assert finding.level == "undecided"
    assert not finding.options


def test_hard_negatives_that_lie_apart_are_no_reason_to_balance():
    finding = judge_negatives(samples(hard=0.3, drawn=0.6, low=-0.4))
    assert finding.level == "none"
    assert "other way round" in finding.text
    assert not finding.options


def test_a_switch_that_is_on_is_not_asked_for():
    finding = judge_negatives(samples(own="iou_balanced_paper_3"))
    assert finding.level == "balanced"
    assert not finding.options
    assert "70\u00a0%" in finding.text
    assert "30\u00a0%" in finding.text


def test_focal_loss_has_no_sampler():
    finding = judge_negatives(samples(stage="dense", own="all"))
    assert not finding.options
    assert [number.value for number in finding.numbers] == [0.6, 0.3, 0.7]
    assert "50\u00a0%" in finding.text
    assert judge_positives(samples(stage="dense")) is None


def test_positives():
    assert judge_positives(samples()).level == "strong"
    assert judge_positives(samples(spread=(0.2, 0.15))).level == "some"
    assert judge_positives(samples(spread=(0.3, 0.29))).level == "none", "what cannot be balanced is not asked for"
    taken = judge_positives(samples(choice=0.1))
    assert taken.level == "none"
    assert "all are taken" in taken.text


def test_objects_that_no_anchor_stands_for():
    def found(without, what="anchors"):
        numbers = {"without": without, "mean": 2.0, "small": 0.5, "medium": None, "large": 3.5}
        positives = {"objects": 9, "by_sampler": {"available": numbers}}
        return judge_coverage({"stage": "rpn", "candidates": what, "positives": positives})

    assert [found(share).level for share in (0.7, 0.1, 0.01)] == ["strong", "some", "none"]
    assert "small ones 0.5, large ones 3.5" in found(0.7).text
    assert found(0.7, "proposals") is None


GRADIENTS = [3.0, 1.0, 0.0, 0.0, 0.0]


def features(mean, balanced=False):
    part = {"mean_cka": mean, "others": [mean] * 5, "integration": [0.2] * 4 + [0.21]}
    strides = [4, 8, 16, 32, 64]
    return {"before": part, "after": part if balanced else None, "balanced": balanced, "strides": strides, "target": 2}


def test_pyramids():
    assert [judge_pyramid(features(mean), GRADIENTS).level for mean in (0.2, 0.4, 0.6)] == ["strong", "some", "none"]
    assert judge_pyramid(features(0.2, balanced=True), GRADIENTS).level == "balanced"
    assert judge_pyramid(features(0.2), GRADIENTS).numbers[1].value == 0.75
    assert "21\u00a0% P6" in judge_pyramid(features(0.2), GRADIENTS).text
    alone = {"before": {"mean_cka": None, "others": [0.0], "integration": [1.0]}, "strides": [4], "target": 0}
    assert judge_pyramid(alone | {"balanced": False, "after": None}, [1.0]).level == "undecided"


def regression(ratio, inliers=0.7, kind="smooth_l1", positives=1000):
    loss = {"share": share(0.5), "ratio": ratio}
    losses = {"own": loss, "smooth_l1": {"share": share(0.4), "ratio": 0.3}}
    losses["balanced_l1_0.5_1.5"] = {"share": share(0.6), "ratio": 0.8}
    errors = {"stage": "roi", "kind": kind, "losses": losses, "positives": positives}
    return errors | {"inliers": share(inliers), "unit": 1.0}


def test_regression():
    assert [judge_regression(regression(r)).level for r in (0.3, 0.6, 0.7)] == ["strong", "some", "none"]
    assert judge_regression(regression(0.3, inliers=0.97)).level == "none", "hardly any outliers"
    assert judge_regression(regression(0.3, positives=50)).level == "undecided"
    assert judge_regression(regression(0.3, inliers=0.5)).level == "undecided", "half of them bring half of it"
    assert judge_regression(regression(0.8, kind="balanced_l1")).level == "balanced"
    boxes = regression(0.3, kind="giou")
    del boxes["losses"]["own"]
    assert judge_regression(boxes).level == "undecided"
    assert judge_regression(regression(None)).level == "undecided"


def tasks(ratio, first="class", second="box"):
    pair = {"place": "pyramid", "class": first, "box": second, "ratio": share(ratio), "cosine": 0.1}
    return {"pairs": [pair, pair | {"place": "elsewhere"}], "losses": {first: 1.0, second: 0.5}}


def test_tasks():
    weights = {"rpn": {"box": 1.0}, "roi": {"box": 2.0, "class": 1.0}}
    levels = [judge_tasks(tasks(r), weights)[0].level for r in (8.0, 3.0, 1.0, 1 / 3, 1 / 8)]
    assert levels == ["strong", "some", "none", "some", "strong"]
    assert len(judge_tasks(tasks(8.0), weights)) == 1
    unsure = tasks(8.0)
    unsure["pairs"][0]["ratio"] = share(8.0, 0.9, 20.0)
    assert judge_tasks(unsure, weights)[0].level == "undecided"
    assert judge_tasks(tasks(8.0), weights)[0].options == ["--detector.roi.box_loss.weight 3"]
    assert judge_tasks(tasks(1 / 8), weights)[0].options == ["--detector.roi.class_weight 1.5"]
    (first,) = judge_tasks(tasks(1 / 8, "rpn_class", "rpn_box"), weights)
    assert first.options == ["--detector.rpn.box_loss.weight 0.5"]


def classes(*objects_and_precisions, correlation=None):
    rows = [{"class": f"c{i}", "objects": n, "AP": ap} for i, (n, ap) in enumerate(objects_and_precisions)]
    return {"rows": rows, "correlation": correlation}


def test_classes():
    assert judge_classes(classes((5000, 0.5), (100, 0.1))).level == "strong"
    assert judge_classes(classes((1000, 0.5), (100, 0.1))).level == "some"
    assert judge_classes(classes((900, 0.5), (100, 0.1))).level == "none"
    assert judge_classes(classes((5000, 0.3), (100, 0.6))).level == "none", "the rare class is found better"
    assert "hint" in judge_classes(classes((900, 0.5), (5, 0.1))).text
    assert judge_classes(classes((900, 0.5))) is None
    assert judge_classes(classes((900, 0.5), (0, None))) is None


def sizes(small, large, objects=100):
    rows = (("small", objects, small), ("medium", 0, None), ("large", objects, large))
    return [{"size": size, "objects": n, "AP": ap, "AR": ap} for size, n, ap in rows]


def test_sizes():
    assert judge_sizes(sizes(0.1, 0.5), "AP").level == "strong"
    assert judge_sizes(sizes(0.2, 0.5), "AP").level == "some"
    assert judge_sizes(sizes(0.4, 0.5), "AP").level == "none"
    assert judge_sizes(sizes(0.1, 0.5, objects=5), "AP").level == "undecided"
    assert judge_sizes(sizes(None, None), "AP") is None


def test_the_costliest_error_is_named():
    kinds = dict.fromkeys(("classification", "localization", "both", "duplicate", "background", "missed"))
    mistakes = {"AP50": 0.5, "kinds": {name: {"cost": 0.0, "count": 0} for name in kinds}}
    assert judge_errors(mistakes, True) is None
    worse = deepcopy(mistakes)
    worse["kinds"]["localization"]["cost"] = 0.2
    assert "balanced L1" in judge_errors(worse, True).text
    worse["kinds"]["background"]["cost"] = 0.3
    assert "IoU-balanced sampling takes fewer negatives there" in judge_errors(worse, True).text
    assert "IoU-balanced" not in judge_errors(worse, False).text
    assert judge_errors(None, True) is None


@pytest.mark.parametrize("name", list(MODELS))
def test_commands_train_the_model_that_was_looked_at(name, tmp_path):
    config = make_config(name, 3, "resnet18")
    config.image.size, config.pyramid.channels = (192, 320), 96
    config.class_names = ("a", "b", "c")
    if config.rpn:
        config.rpn.anchors.scales = (4.0, 8.0)
    options = ["--detector.pyramid.balanced.refine conv", "--detector.pyramid.balanced.level 1"]
    command = train_command(tmp_path / "model.safetensors", config, tmp_path / "my data", options, "runs/x")
    program, verb, *argv = shlex.split(command.replace("\\\n", ""))
    assert (program, verb) == ("libradet", "train")
    if config.takes_proposals:
        argv += ["--proposals", "x"]
    request = parse_train(argv)
    assert request.config.data == str(tmp_path / "my data")
    trained = request.detector
    assert (trained.pyramid.balanced.refine, trained.pyramid.balanced.level) == ("conv", 1)
    trained.pyramid.balanced = config.pyramid.balanced
    assert (trained.pyramid, trained.rpn, trained.roi, trained.cascade, trained.dense) == (
        (config.pyramid, config.rpn, config.roi, config.cascade, config.dense)
    )
    assert tuple(trained.image.size) == (192, 320)


def test_a_run_is_repeated_by_its_own_configuration(tmp_path):
    (tmp_path / "config.yaml").write_text("model: faster_rcnn\n")
    command = train_command(tmp_path / "best.safetensors", make_config("faster_rcnn"), "data", [], "runs/x")
    assert command.split() == f"libradet train --config {tmp_path}/config.yaml \\ --data data \\ --out runs/x".split()


@pytest.mark.parametrize("stage", ["rpn", "roi"])
def test_switches_are_options_of_train(stage):
    switches = [
        judge_negatives(samples(stage=stage)),
        judge_positives(samples(stage=stage)),
        judge_pyramid(features(0.1), GRADIENTS),
        judge_regression(regression(0.3) | {"stage": stage}),
        *judge_tasks(tasks(1 / 9), {"roi": {"box": 1.0, "class": 1.0}}),
    ]
    words = [word for finding in switches for option in finding.options for word in option.split(" ", 1)]
    detector = parse_train(["--model", "faster_rcnn", "--data", "x", *words]).detector
    changed = getattr(detector, stage)
    assert changed.sampling.negatives == "iou_balanced"
    assert changed.sampling.positives == "instance_balanced"
    assert changed.box_loss.kind == "balanced_l1"
    assert detector.pyramid.balanced.refine == "non_local"
    assert detector.roi.class_weight == 1.5
