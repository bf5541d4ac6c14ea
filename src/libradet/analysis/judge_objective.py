"""Verdict on the objective level: inliers against outliers, classes against boxes."""

from typing import Any

from libradet.analysis import thresholds as limits
from libradet.analysis.finding import Finding, Number, grade, percent
from libradet.analysis.judge_samples import NAMES
from libradet.analysis.objective_level import OWN

BALANCED = "balanced_l1_0.5_1.5"

_CHECK = (
    "Train both ways with the same seed and compare AP75 with AP50: balanced L1 makes boxes tighter, so AP75 should "
    "gain more (on COCO +1.1 against −0.1, Table 2)."
)


def judge_regression(errors: dict[str, Any]) -> Finding:
    """Whether outliers drown inliers in the gradient of a stage's localization loss."""
    stage, losses, inliers = errors["stage"], errors["losses"], errors["inliers"]["value"]
    key, title = f"regression_{stage}", f"Regression of the {NAMES[stage]}"
    current = losses.get(OWN)
    if current is None:
        text = (
            f"Its loss, {errors['kind']}, compares boxes as wholes: inliers and outliers of single deltas do not apply."
        )
        return Finding(key, title, "undecided", [], text)
    ratio, balanced = current["ratio"], losses[BALANCED]["ratio"]
    if inliers is None or ratio is None or balanced is None:
        return Finding(key, title, "undecided", [], "There are not both inliers and outliers to compare.")
    numbers = [
        Number(ratio, "gradient of an inlier, over that of an outlier"),
        Number(balanced, "with balanced L1 (α 0.5, γ 1.5)"),
        Number(1 - inliers, "of the positives are outliers"),
    ]
    level = grade(ratio, limits.RATIO_STRONG, limits.RATIO_SOME)
    finding = Finding(key, title, level, numbers, "", "On COCO: an inlier has about 30 % of an outlier's gradient.")
    share = current["share"]["value"]
    finding.text = (
        f"Inliers are {percent(inliers)} of the positives and bring {percent(share)} of the gradient; balanced L1 "
        f"would make that {percent(losses[BALANCED]['share']['value'])}."
    )
    if 1 - inliers < limits.OUTLIERS:
        finding.level = "none"
        finding.text = f"Hardly any outliers ({percent(1 - inliers)}): whatever they bring, inliers decide."
    elif errors["positives"] < limits.FEW_POSITIVES and level != "none":
        finding.level = "undecided"
        finding.text += f" But these are {errors['positives']} positives only."
    elif current["share"]["high"] >= inliers and level != "none":
        finding.level = "undecided"
        finding.text += " Their 95 % interval does not tell that from an even share."
    if errors["kind"] == "balanced_l1":
        plain = losses["smooth_l1"]
        finding.level = "balanced"
        finding.numbers[1] = Number(plain["ratio"], "with smooth L1")
        finding.text = (
            f"This model learns with balanced L1: inliers bring {percent(share)} of the gradient, with smooth L1 it "
            f"would be {percent(plain['share']['value'])}."
        )
    elif finding.level in ("strong", "some"):
        finding.options = [f"--detector.{stage}.box_loss.kind balanced_l1"]
        finding.check = _CHECK
    return finding


def judge_tasks(gradients: dict[str, Any], weights: dict[str, dict[str, float]]) -> list[Finding]:
    """Whether classes or boxes of a stage drown the other on the pyramid that they share.

    Args:
        weights: of the losses as they are, by stage: ``class``, ``box``.
    """
    found = []
    for pair in gradients["pairs"]:
        if pair["place"] == "pyramid":
            second = "roi" if "roi" in weights else "dense"
            stage = "rpn" if pair["class"].startswith("rpn_") else second
            found.append(_judge_pair(pair, gradients["losses"], stage, weights[stage]))
    return found


def _judge_pair(pair: dict[str, Any], losses: dict[str, float], stage: str, weights: dict[str, float]) -> Finding:
    ratio = pair["ratio"]["value"]
    louder = max(ratio, 1 / ratio)
    level = grade(louder, limits.TASKS_STRONG, limits.TASKS_SOME)
    if level != "none" and pair["ratio"]["low"] <= 1 <= pair["ratio"]["high"]:
        level = "undecided"
    number = pair["class"].partition("class")[2].strip("_")
    name = NAMES[stage] + (f", stage {number} of its cascade" if number else "")
    first, second = ("class", "box") if ratio >= 1 else ("box", "class")
    numbers = [
        Number(ratio, "gradient of classes over that of boxes, on the pyramid", "ratio"),
        Number(pair["cosine"], "cosine between them (−1 opposed, 1 the same way)", "decimal"),
    ]
    finding = Finding(f"tasks_{stage}{number and '_' + number}", f"Classes and boxes of the {name}", level, numbers, "")
    finding.paper = (
        "The paper names this imbalance and gives no figure; weighting boxes by 1.5 alone brought +0.5 AP (Table 6)."
    )
    names = {"class": "classification", "box": "localization"}
    finding.text = (
        f"The {names[first]} loss is {losses[pair[first]]:.2g} and sends {louder:.1f} times the gradient of "
        f"the {names[second]} loss ({losses[pair[second]]:.2g}) into the layers that both share."
    )
    if level not in ("strong", "some"):
        return finding
    if ratio >= 1:
        finding.options = [f"--detector.{stage}.box_loss.weight {1.5 * weights['box']:g}"]
        finding.text += (
            " A larger weight lifts outliers most of all: balance the localization loss first, if it is not."
        )
    elif "class" in weights:
        finding.options = [f"--detector.{stage}.class_weight {1.5 * weights['class']:g}"]
    else:
        finding.options = [f"--detector.{stage}.box_loss.weight {0.5 * weights['box']:g}"]
    finding.check = "Change one weight at a time, with the same seed, and watch AP50 (classes) and AP75 (boxes)."
    return finding
