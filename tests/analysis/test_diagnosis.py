"""Diagnosis: severities at the thresholds, texts, and commands that run."""

import shlex
from copy import deepcopy
from pathlib import Path

import pytest

from libradet.analysis.diagnose import thresholds
from libradet.analysis.diagnose.classes import diagnose_classes
from libradet.analysis.diagnose.diagnosis import (
    _data_caveats,
    _gradient_caveats,
    apply_measured_gains,
    join_titles,
    more_samples,
    train_command,
)
from libradet.analysis.diagnose.feature import diagnose_pyramid
from libradet.analysis.diagnose.finding import grade
from libradet.analysis.diagnose.measured_gains import NOT_MEASURED
from libradet.analysis.diagnose.objective import diagnose_regression, diagnose_tasks
from libradet.analysis.diagnose.outcome import diagnose_errors, diagnose_sizes
from libradet.analysis.diagnose.sample import (
    diagnose_coverage,
    diagnose_negatives,
    diagnose_positive_ious,
    diagnose_positives,
)
from libradet.models.config import LoraConfig
from libradet.models.zoo import MODELS, make_config
from libradet.training.options import parse_train


def share(value, low=None, high=None):
    return {"value": value, "low": value if low is None else low, "high": value if high is None else high}


def samples(
    hard=0.6, random=0.3, even=0.7, low=0.25, own="random", stage="roi", choice=1.0, spread=(0.3, 0.15), objects=20
):
    rows = {
        "hard": hard,
        "random": random,
        "iou_balanced_paper_3": even,
        "own": random if own in ("all", "random") else even,
    }
    rows |= {"all": 0.1, "loss_weighted": 0.5}
    by_sampler = {
        name: {"top_tenth": top, "without": 0.1}
        for name, top in zip(("random", "instance_balanced"), spread, strict=True)
    }
    return {
        "stage": stage,
        "candidates": "proposals",
        "uses_sampling": stage != "retinanet",
        "own_negatives": own,
        "own_positives": "random",
        "negatives": {name: {"above_threshold": share(value)} for name, value in rows.items()},
        "gap": share(hard - random, low),
        "positives": {"objects": objects, "images_with_choice": choice, "by_sampler": by_sampler},
    }


@pytest.mark.parametrize(
    ("value", "severity"),
    [(0.3, "strong"), (0.2, "strong"), (0.19, "moderate"), (0.08, "moderate"), (0.07, "none"), (-1.0, "none")],
)
def test_a_value_at_a_threshold_has_the_higher_severity(value, severity):
    assert grade(value, thresholds.GAP_STRONG, thresholds.GAP_MODERATE) == severity
    assert grade(-value, -thresholds.GAP_STRONG, -thresholds.GAP_MODERATE) == severity


def test_the_papers_own_numbers_are_a_strong_imbalance():
    finding = diagnose_negatives(samples(thresholds.PAPER_HARD, thresholds.PAPER_RANDOM))
    assert finding.severity == "strong"
    assert finding.options == [
        "--detector.roi.sampling.negatives iou_balanced",
        "--detector.roi.sampling.random_fraction 0.5",
    ]
    assert "30 points" in finding.text
    assert [number.value for number in finding.numbers] == [0.6, 0.3, 0.7]
    errors = regression(thresholds.PAPER_INLIER_RATIO)
    assert diagnose_regression(errors).severity == "strong"


def test_an_interval_that_includes_zero_is_inconclusive():
    finding = diagnose_negatives(samples(low=-0.01))
    assert finding.severity == "inconclusive"
    assert not finding.options


def test_hard_negatives_away_from_objects_are_no_imbalance():
    finding = diagnose_negatives(samples(hard=0.3, random=0.6, low=-0.4))
    assert finding.severity == "none"
    assert "reverse" in finding.text
    assert not finding.options


def test_a_component_in_use_is_not_recommended():
    finding = diagnose_negatives(samples(own="iou_balanced_paper_3"))
    assert finding.severity == "balanced"
    assert not finding.options
    assert "70\u00a0%" in finding.text
    assert "30\u00a0%" in finding.text


def test_focal_loss_has_no_sampler():
    finding = diagnose_negatives(samples(stage="retinanet", own="all"))
    assert not finding.options
    assert [number.value for number in finding.numbers] == [0.6, 0.3, 0.7]
    assert "50\u00a0%" in finding.text
    assert diagnose_positives(samples(stage="retinanet")) is None


def test_positives():
    assert diagnose_positives(samples()).severity == "strong"
    assert diagnose_positives(samples(spread=(0.2, 0.15))).severity == "moderate"
    assert diagnose_positives(samples(spread=(0.3, 0.29))).severity == "none", (
        "a sampler that changes nothing is not recommended"
    )
    few = diagnose_positives(samples(objects=19))
    assert (few.severity, few.options) == ("inconclusive", [])
    assert "19 objects are too few" in few.text
    taken = diagnose_positives(samples(choice=0.1))
    assert taken.severity == "none"
    assert "all are used" in taken.text


@pytest.mark.parametrize(
    ("below", "severity"), [(0.8, "strong"), (0.65, "moderate"), (0.5, "none"), (None, "inconclusive")]
)
def test_inaccurate_positives(below, severity):
    ious = {"below": share(below), "middle": 0.75, "generated_boxes": 0, "count": 200.0}
    finding = diagnose_positive_ious({"candidates": "proposals", "stage": "roi", "positive_ious": ious})
    assert finding.severity == severity
    assert bool(finding.options) == (severity in ("strong", "moderate"))
    assert diagnose_positive_ious({"candidates": "anchors", "stage": "rpn", "positive_ious": ious}) is None
    few = diagnose_positive_ious({"candidates": "proposals", "stage": "roi", "positive_ious": ious | {"count": 3.0}})
    assert (few.severity, few.options) == ("none" if below == 0.5 else "inconclusive", [])
    ious["generated_boxes"] = 4
    generated = diagnose_positive_ious({"candidates": "proposals", "stage": "roi", "positive_ious": ious})
    assert generated.severity == ("inconclusive" if below is None else "balanced")
    assert ("still outnumber" in generated.text) == (severity in ("strong", "moderate"))


def test_objects_without_a_positive_anchor():
    def finding(without, what="anchors", objects=20):
        numbers = {"without": without, "mean": 2.0, "small": 0.5, "medium": None, "large": 3.5}
        positives = {"objects": objects, "by_sampler": {"available": numbers}}
        return diagnose_coverage({"stage": "rpn", "candidates": what, "positives": positives})

    assert [finding(share).severity for share in (0.7, 0.1, 0.01)] == ["strong", "moderate", "none"]
    assert "small 0.5, large 3.5" in finding(0.7).text
    assert finding(0.7, "proposals") is None
    assert finding(0.7, objects=1).severity == "inconclusive"
    assert finding(0.7, objects=1).text.endswith("1 object is too few for a conclusion.")


GRADIENTS = [3.0, 1.0, 0.0, 0.0, 0.0]


def features(mean, balanced=False):
    part = {"mean_cka": mean, "others": [mean] * 5, "integration": [0.2] * 4 + [0.21]}
    strides = [4, 8, 16, 32, 64]
    return {"before": part, "after": part if balanced else None, "balanced": balanced, "strides": strides, "target": 2}


def test_pyramids():
    assert [diagnose_pyramid(features(mean), GRADIENTS).severity for mean in (0.2, 0.4, 0.6)] == [
        "strong",
        "moderate",
        "none",
    ]
    assert diagnose_pyramid(features(0.2, balanced=True), GRADIENTS).severity == "balanced"
    assert diagnose_pyramid(features(0.2), GRADIENTS).numbers[1].value == 0.75
    assert "P6 contributes most: 21\u00a0%" in diagnose_pyramid(features(0.2), GRADIENTS).text
    alone = {"before": {"mean_cka": None, "others": [0.0], "integration": [1.0]}, "strides": [4], "target": 0}
    assert diagnose_pyramid(alone | {"balanced": False, "after": None}, [1.0]).severity == "inconclusive"


def regression(ratio, inliers=0.7, loss_type="smooth_l1", positives=1000):
    loss = {"share": share(0.5), "ratio": ratio}
    losses = {"own": loss, "smooth_l1": {"share": share(0.4), "ratio": 0.3}}
    losses["balanced_l1_0.5_1.5"] = {"share": share(0.6), "ratio": 0.8}
    errors = {"stage": "roi", "type": loss_type, "losses": losses, "positives": positives}
    return errors | {"inliers": share(inliers), "beta": 1.0, "configured_beta": 1.0}


def test_regression():
    assert [diagnose_regression(regression(r)).severity for r in (0.3, 0.6, 0.7)] == ["strong", "moderate", "none"]
    assert diagnose_regression(regression(0.3, inliers=0.97)).severity == "none", "few outliers"
    assert diagnose_regression(regression(0.3, positives=50)).severity == "inconclusive"
    assert diagnose_regression(regression(0.3, inliers=0.5)).severity == "inconclusive", (
        "half of them contribute half of the gradient"
    )
    assert diagnose_regression(regression(0.8, loss_type="balanced_l1")).severity == "balanced"
    boxes = regression(0.3, loss_type="giou")
    del boxes["losses"]["own"]
    assert diagnose_regression(boxes).severity == "inconclusive"
    assert diagnose_regression(regression(None)).severity == "inconclusive"


def test_balanced_l1_is_recommended_with_a_beta_that_it_accepts():
    for configured, added in ((1.0, []), (0.0, ["--detector.roi.box_loss.beta 1"])):
        options = diagnose_regression(regression(0.3) | {"configured_beta": configured}).options
        assert options == ["--detector.roi.box_loss.type balanced_l1", *added]


def tasks(ratio, first="class", second="box"):
    pair = {"place": "pyramid", "class": first, "box": second, "ratio": share(ratio), "cosine": 0.1}
    return {"pairs": [pair, pair | {"place": "elsewhere"}], "losses": {first: 1.0, second: 0.5}}


def test_tasks():
    weights = {"rpn": {"box": 1.0}, "roi": {"box": 2.0, "class": 1.0}}
    levels = [diagnose_tasks(tasks(r), weights)[0].severity for r in (8.0, 3.0, 1.0, 1 / 3, 1 / 8)]
    assert levels == ["strong", "moderate", "none", "moderate", "strong"]
    assert len(diagnose_tasks(tasks(8.0), weights)) == 1
    unsure = tasks(8.0)
    unsure["pairs"][0]["ratio"] = share(8.0, 0.9, 20.0)
    assert diagnose_tasks(unsure, weights)[0].severity == "inconclusive"
    assert diagnose_tasks(tasks(8.0), weights)[0].options == ["--detector.roi.box_loss.weight 3"]
    assert diagnose_tasks(tasks(1 / 8), weights)[0].options == ["--detector.roi.cls_loss_weight 1.5"]
    (first,) = diagnose_tasks(tasks(1 / 8, "rpn_class", "rpn_box"), weights)
    assert first.options == ["--detector.rpn.box_loss.weight 0.5"]


def test_no_weight_is_recommended_where_the_model_learns_them():
    weights = {"roi": {"box": 1.0, "class": 1.0}}
    for ratio, severity in ((8.0, "strong"), (1 / 8, "strong"), (1.0, "none")):
        (finding,) = diagnose_tasks(tasks(ratio), weights, learned_weights=True)
        assert (finding.severity, finding.recommended, finding.options) == (severity, "", [])
        assert ("--detector.uncertainty_weighting false" in finding.text) == (severity == "strong")


def classes(*objects_and_precisions, correlation=None, **trained_with):
    rows = [{"class": f"c{i}", "objects": n, "AP": ap} for i, (n, ap) in enumerate(objects_and_precisions)]
    return {
        "rows": rows,
        "correlation": correlation,
        "split": "val",
        "rare": ["c1"],
        "rare_as_frequent": 0.25,
        "repeat_factor_thresh": 0.3,
        "repeated_epoch": 1.5,
        "trained_with": {"repeat_factor_thresh": 0.0, "class_balance": None, "can_balance_loss": True} | trained_with,
    }


def trained_only(level):
    """Return the class level of a split without the last class, which is trained."""
    level["rows"] = [row | {"train_objects": row["objects"]} for row in level["rows"]]
    level["rows"][-1]["objects"] = 0
    return level


def test_classes():
    assert diagnose_classes(classes((5000, 0.5), (100, 0.1))).severity == "strong"
    assert diagnose_classes(classes((1000, 0.5), (100, 0.1))).severity == "moderate"
    assert diagnose_classes(classes((900, 0.5), (100, 0.1))).severity == "none"
    assert diagnose_classes(classes((5000, 0.3), (100, 0.6))).severity == "none", "the rare class is detected better"
    blood_cells = diagnose_classes(classes((2381, 0.56), (214, 0.74), (209, 0.42)))
    assert (blood_cells.severity, blood_cells.options) == ("none", []), "class weights gained nothing there"
    assert "On average, rare classes have a higher AP than c0" in blood_cells.text
    assert diagnose_classes(classes((2381, 0.60), (214, 0.74), (209, 0.42))).severity == "moderate"
    assert diagnose_classes(classes((2381, 0.56), (1500, 0.74), (209, 0.42))).severity == "moderate"
    assert "only indicative" in diagnose_classes(classes((900, 0.5), (5, 0.1))).text
    assert "No object of c1 is evaluated" in diagnose_classes(trained_only(classes((900, 0.5), (5, None)))).text
    assert diagnose_classes(classes((900, 0.5))) is None
    assert diagnose_classes(classes((900, 0.5), (0, None))) is None


@pytest.mark.parametrize(
    ("objects", "correlation", "severity"),
    [
        (5000, 0.7, "strong"),
        (5000, 0.5, "moderate"),
        (5000, 0.3, "none"),
        (5000, -0.9, "none"),
        (1000, 0.9, "moderate"),
        (900, 0.9, "none"),
    ],
)
def test_classes_that_are_rare_but_not_behind_are_no_imbalance(objects, correlation, severity):
    finding = diagnose_classes(classes((objects, 0.5), (100, 0.1), correlation=correlation))
    assert finding.severity == severity
    # Class weights were not measured at a ratio of 50.
    option = "--repeat_factor_thresh 0.3" if objects == 5000 else "--detector.roi.class_balance.type inverse_frequency"
    assert finding.options == ([option] if severity != "none" else [])
    assert "25\u00a0% are detected as a frequent class" in finding.text
    assert finding.numbers[1].value == correlation


@pytest.mark.parametrize("thresh", [0.0, None])
def test_class_balance_is_an_alternative_of_models_with_a_box_head(thresh):
    with_box_head = diagnose_classes(classes((5000, 0.5), (100, 0.1), repeat_factor_thresh=thresh))
    retinanet = diagnose_classes(classes((5000, 0.5), (100, 0.1), repeat_factor_thresh=thresh, can_balance_loss=False))
    for finding in (with_box_head, retinanet):
        assert finding.options == ["--repeat_factor_thresh 0.3"]
    assert "roi.class_balance.type effective_number" in with_box_head.check
    assert "roi.class_balance" not in retinanet.check + retinanet.text


def test_class_weights_are_recommended_at_ratios_like_the_measured_one():
    rows = (2000, 0.5), (100, 0.1)
    finding = diagnose_classes(classes(*rows))
    assert finding.options == ["--detector.roi.class_balance.type inverse_frequency"]
    assert "--repeat_factor_thresh 0.3" in finding.check
    apply_measured_gains(finding, make_config("faster_rcnn"))
    assert "gain of class weights by inverse frequency in the AP of rare classes" in finding.measured
    retinanet = diagnose_classes(classes(*rows, can_balance_loss=False))
    assert retinanet.options == ["--repeat_factor_thresh 0.3"]
    apply_measured_gains(retinanet, make_config("retinanet"))
    assert "not in this kind, of repeat-factor sampling" in retinanet.measured
    assert diagnose_classes(classes(*rows, repeat_factor_thresh=0.05)).options == []


def test_class_options_in_use_are_stated_and_not_recommended_again():
    rows = (5000, 0.5), (100, 0.1)
    finding = diagnose_classes(classes(*rows, repeat_factor_thresh=0.05))
    assert (finding.severity, finding.options) == ("balanced", [])
    assert "was trained with repeat-factor sampling at 0.05. An alternative" in finding.text
    finding = diagnose_classes(classes(*rows, class_balance="seesaw"))
    assert (finding.severity, finding.options) == ("strong", ["--repeat_factor_thresh 0.3"])
    assert "was trained with seesaw loss." in finding.text
    assert "roi.class_balance" not in finding.check
    finding = diagnose_classes(classes(*rows, repeat_factor_thresh=0.05, class_balance="eql_v2"))
    assert (finding.severity, finding.options) == ("balanced", [])
    assert "repeat-factor sampling at 0.05 and equalization loss v2. Images" in finding.text
    unaffected = diagnose_classes(classes((900, 0.5), (100, 0.1), repeat_factor_thresh=0.05))
    assert unaffected.severity == "none", "no imbalance is left"
    assert "was trained with repeat-factor sampling at 0.05." in unaffected.text


def sizes(small, large, objects=100):
    rows = (("small", objects, small), ("medium", 0, None), ("large", objects, large))
    return [{"size": size, "objects": n, "AP": ap, "AR": ap} for size, n, ap in rows]


def test_sizes():
    assert diagnose_sizes(sizes(0.1, 0.5), "AP").severity == "strong"
    assert diagnose_sizes(sizes(0.2, 0.5), "AP").severity == "moderate"
    assert diagnose_sizes(sizes(0.4, 0.5), "AP").severity == "none"
    assert diagnose_sizes(sizes(0.1, 0.5, objects=5), "AP").severity == "inconclusive"
    assert diagnose_sizes(sizes(None, None), "AP") is None
    of_proposals = diagnose_sizes(sizes(0.1, 0.5), "AR")
    assert {number.label for number in of_proposals.numbers} == {"AR of small objects", "AR of large objects"}
    assert "no recall by object size" in of_proposals.paper


def test_the_costliest_error_type_is_named():
    types = dict.fromkeys(("classification", "localization", "both", "duplicate", "background", "missed"))
    error_types = {"AP50": 0.5, "types": {name: {"cost": 0.0, "count": 0} for name in types}}
    assert diagnose_errors(error_types, True) is None
    worse = deepcopy(error_types)
    worse["types"]["localization"]["cost"] = 0.2
    assert "balanced L1" in diagnose_errors(worse, True).text
    worse["types"]["background"]["cost"] = 0.3
    assert "IoU-balanced sampling draws fewer background negatives" in diagnose_errors(worse, True).text
    assert "IoU-balanced" not in diagnose_errors(worse, False).text
    assert diagnose_errors(None, True) is None


@pytest.mark.parametrize("name", list(MODELS))
def test_commands_train_the_analyzed_model(name, tmp_path):
    config = make_config(name, 3, "resnet18")
    config.image.size, config.pyramid.channels = (192, 320), 96
    config.class_names = ("a", "b", "c")
    if config.rpn:
        config.rpn.anchors.scales = (4.0, 8.0)
    options = ["--detector.pyramid.balanced.refine conv", "--detector.pyramid.balanced.level 1"]
    model, data, folder = tmp_path / "model.safetensors", tmp_path / "my data", tmp_path / "proposals"
    folder.mkdir()
    command = train_command(model, config, data, options, "runs/x", str(folder))
    file = folder / "val.safetensors"
    file.touch()
    assert train_command(model, config, data, options, "runs/x", str(file)) == command
    program, verb, *argv = shlex.split(command.replace("\\\n", ""))
    assert (program, verb) == ("libradet", "train")
    request = parse_train(argv)
    assert request.config.proposals == (str(folder) if config.requires_proposals else None)
    assert request.config.data == str(tmp_path / "my data")
    trained = request.detector
    assert (trained.pyramid.balanced.refine, trained.pyramid.balanced.level) == ("conv", 1)
    trained.pyramid.balanced = config.pyramid.balanced
    assert (trained.pyramid, trained.rpn, trained.roi, trained.cascade, trained.retinanet) == (
        (config.pyramid, config.rpn, config.roi, config.cascade, config.retinanet)
    )
    assert tuple(trained.image.size) == (192, 320)


def test_commands_use_the_configuration_of_the_run(tmp_path):
    (tmp_path / "config.yaml").write_text("model: faster_rcnn\n")
    (tmp_path / "best.safetensors").touch()
    command = train_command(tmp_path / "best.safetensors", make_config("faster_rcnn"), "data", [], "runs/x")
    assert (
        command.split()
        == f"libradet train --config {tmp_path}/config.yaml \\ --data data \\ --output_dir runs/x".split()
    )


def test_commands_for_published_weights_ignore_a_configuration_in_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text("model: retinanet\n")
    command = train_command("faster_rcnn_r50_fpn_coco", make_config("faster_rcnn"), "data", [], "runs/x")
    assert "--config" not in command


def test_commands_keep_what_the_initial_weights_do_not_determine():
    """ImageNet weights need their own order of channels; the features of a MobileNet are a choice."""
    config = make_config("faster_rcnn", 3, "mobilenetv3_large_100")
    config.backbone.features, config.backbone.lora = "stride_32", LoraConfig(rank=4)
    config.pyramid.start_stride, config.image.channels, config.image.mean = 32, "bgr", (1.0, 2.0, 3.0)
    command = train_command("x", config, "data", [], "runs/x")
    assert "--detector.backbone.features stride_32" in command
    assert "--detector.backbone.lora.rank 4" in command
    assert "--detector.image" not in command


@pytest.mark.parametrize("stage", ["rpn", "roi"])
def test_recommended_options_are_options_of_train(stage):
    findings = [
        diagnose_negatives(samples(stage=stage)),
        diagnose_positives(samples(stage=stage)),
        diagnose_pyramid(features(0.1), GRADIENTS),
        diagnose_regression(regression(0.3) | {"stage": stage}),
        *diagnose_tasks(tasks(1 / 9), {"roi": {"box": 1.0, "class": 1.0}}),
        diagnose_classes(classes((5000, 0.5), (100, 0.1))),
    ]
    words = [word for finding in findings for option in finding.options for word in option.split(" ", 1)]
    request = parse_train(["--model", "faster_rcnn", "--data", "x", *words])
    detector = request.detector
    assert request.config.repeat_factor_thresh == 0.3
    changed = getattr(detector, stage)
    assert changed.sampling.negatives == "iou_balanced"
    assert changed.sampling.positives == "instance_balanced"
    assert changed.box_loss.type == "balanced_l1"
    assert detector.pyramid.balanced.refine == "non_local"
    assert detector.roi.cls_loss_weight == 1.5


def test_what_lowered_ap_where_it_was_measured_is_not_recommended():
    two_stage = make_config("faster_rcnn")
    for finding in (diagnose_negatives(samples(stage="rpn")), diagnose_regression(regression(0.3) | {"stage": "rpn"})):
        name = finding.recommended
        apply_measured_gains(finding, two_stage)
        assert (finding.severity, finding.recommended, finding.options, finding.check) == ("strong", "", [], "")
        assert name[1:] + " is not recommended here: it lowered AP where it was measured." in finding.text
        assert "circuit boards -0." in finding.measured
    kept = diagnose_regression(regression(0.3))
    apply_measured_gains(kept, two_stage)
    assert (kept.recommended, "not recommended" in kept.text) == ("balanced L1", False)


def test_gains_of_detectors_do_not_apply_to_an_rpn_alone():
    for finding in (diagnose_negatives(samples(stage="rpn")), diagnose_pyramid(features(0.1), GRADIENTS)):
        name = finding.recommended
        apply_measured_gains(finding, make_config("rpn"))
        assert (finding.recommended, finding.measured) == (name, NOT_MEASURED)


def test_gains_that_were_measured_in_another_kind_of_detector_say_so():
    finding = diagnose_pyramid(features(0.1), GRADIENTS)
    apply_measured_gains(finding, make_config("retinanet"))
    assert finding.measured.startswith("Gain that was measured in detectors with RoI heads, not in this kind, of the")


@pytest.mark.parametrize(
    ("ratio", "recommended", "measured"),
    [
        (
            3.0,
            "larger box loss weight",
            "Measured gain of a box loss weight of 1.5 in place of 1 in AP: circuit boards",
        ),
        (0.3, "larger classification loss weight", NOT_MEASURED),
    ],
)
def test_gain_of_a_loss_weight_is_that_of_the_recommended_one(ratio, recommended, measured):
    pair = {"place": "pyramid", "class": "class", "box": "box", "ratio": share(ratio), "cosine": 0.1}
    gradients = {"pairs": [pair], "losses": {"class": 1.0, "box": 0.5}}
    (finding,) = diagnose_tasks(gradients, {"roi": {"class": 1.0, "box": 1.0}})
    apply_measured_gains(finding, make_config("faster_rcnn"))
    assert finding.recommended == recommended
    assert finding.measured.startswith(measured)


@pytest.mark.parametrize(
    ("stage", "positives", "norms", "dead"),
    [
        ("rpn", 0, {"rpn_class": 1.0, "rpn_box": 0.0}, ""),
        ("rpn", 9, {"rpn_class": 1.0, "rpn_box": 0.0}, "rpn_box"),
        ("rpn", 0, {"class": 1.0, "box0": 0.0, "rpn_box": 0.0}, "box0"),
        ("roi", 0, {"class": 0.0, "box": 0.0, "box0": 0.0}, "class"),
    ],
)
def test_box_losses_without_positives_are_no_dead_units(stage, positives, norms, dead):
    report = {"errors": [{"stage": stage, "positives": positives}], "gradients": {"norms": {"pyramid": norms}}}
    caveats = _gradient_caveats(report)
    assert [caveat.split("losses ")[1].split(":")[0] for caveat in caveats] == [dead] * bool(dead)


def test_caveats_of_data():
    metadata = {"bit_depth_warning": "", "trained_tiles": None}
    classes = {"split": "train", "rows": [{"class": "dog", "objects": 3, "train_objects": 4}]}
    assert _data_caveats({"metadata": metadata, "classes": classes}) == []
    metadata = {"bit_depth_warning": "16-bit images are dark", "trained_tiles": [640.0, 0.2]}
    classes["rows"] = [{"class": name, "objects": 3, "train_objects": 0} for name in ("dog", "cat")]
    dark, tiles, unseen = _data_caveats({"metadata": metadata, "classes": classes})
    assert dark == "16-bit images are dark."
    assert "tiles of 640 px with an overlap of 0.2; whole images are analyzed" in tiles
    assert unseen.startswith("Split train has no object of dog, cat: no option helps a detector to learn them")


def test_an_option_replaces_the_value_of_the_model(tmp_path):
    config = make_config("faster_rcnn")
    config.roi.sampling.batch_size_per_image = 128
    option = "--detector.roi.sampling.batch_size_per_image"
    command = train_command(tmp_path / "model.safetensors", config, "data", [f"{option} 2000"], "runs/x")
    assert command.count(option) == 1
    assert f"{option} 2000" in command


def test_balanced_heads_get_as_many_samples_as_proposals():
    config, sampler = make_config("faster_rcnn"), ["--detector.roi.sampling.negatives iou_balanced"]
    assert more_samples(config, sampler) == ["--detector.roi.sampling.batch_size_per_image 2000"]
    assert more_samples(config, ["--detector.pyramid.balanced.gated true"]) == []
    assert more_samples(make_config("balanced_faster_rcnn"), sampler) == []
    assert more_samples(make_config("retinanet"), sampler) == []
    config = make_config("fast_rcnn")
    config.roi.train_proposals = 700
    assert more_samples(config, sampler) == ["--detector.roi.sampling.batch_size_per_image 700"]


def test_titles_within_a_sentence_keep_abbreviations():
    titles = ["IoU of positives (RoI heads)", "Negative sampling (RPN)"]
    assert join_titles(titles) == "IoU of positives (RoI heads) and negative sampling (RPN)"
