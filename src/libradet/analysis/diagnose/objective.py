"""Diagnosis of the objective level: inliers against outliers, classification against box regression."""

from typing import Any

from libradet.analysis.diagnose import thresholds
from libradet.analysis.diagnose.finding import STAGE_NAMES, Finding, Number, grade, is_imbalance, percent
from libradet.analysis.levels.objective import OWN

BALANCED_L1 = "balanced_l1_0.5_1.5"

_CHECK = (
    "Train with and without this option with the same seed and compare AP75 with AP50: balanced L1 makes boxes "
    "tighter, so AP75 should gain more (on COCO +1.1 against −0.1, Table 2)."
)

_LEARNED_WEIGHTS = (
    " The model learns the weights of its losses (uncertainty_weighting), which undoes a change of a loss weight: none "
    "is recommended. Train with --detector.uncertainty_weighting false to choose the weights."
)


def diagnose_regression(errors: dict[str, Any]) -> Finding:
    """Check whether outliers dominate the gradient of a stage's box regression loss."""
    stage, losses, inliers = errors["stage"], errors["losses"], errors["inliers"]["value"]
    key, title = f"regression_{stage}", f"Box regression loss ({STAGE_NAMES[stage]})"
    own = losses.get(OWN)
    if own is None:
        text = f"This loss ({errors['type']}) compares whole boxes: inliers and outliers of single deltas do not apply."
        return Finding(key, title, "inconclusive", [], text)
    ratio, balanced = own["ratio"], losses[BALANCED_L1]
    if inliers is None or ratio is None or balanced["ratio"] is None:
        return Finding(key, title, "inconclusive", [], "Inliers and outliers are not both present.")
    outliers, share = 1 - inliers, own["share"]
    numbers = [
        Number(ratio, "gradient of an inlier relative to an outlier"),
        Number(balanced["ratio"], "with balanced L1 (α 0.5, γ 1.5)"),
        Number(outliers, "of the positives are outliers"),
    ]
    severity = grade(ratio, thresholds.RATIO_STRONG, thresholds.RATIO_MODERATE)
    paper = "COCO (paper): an inlier has about 30 % of the gradient of an outlier."
    finding = Finding(key, title, severity, numbers, "", paper)
    finding.text = (
        f"Inliers are {percent(inliers)} of the positives and contribute {percent(share['value'])} of the gradient; "
        f"with balanced L1 they would contribute {percent(balanced['share']['value'])}."
    )
    if outliers < thresholds.MIN_OUTLIERS:
        finding.severity = "none"
        finding.text = f"There are few outliers ({percent(outliers)}): inliers dominate the gradient in any case."
    elif errors["positives"] < thresholds.MIN_POSITIVES and severity != "none":
        finding.severity = "inconclusive"
        finding.text += f" These are only {errors['positives']} positives."
    elif share["high"] >= inliers and severity != "none":
        finding.severity = "inconclusive"
        finding.text += " The 95 % interval of their contribution includes an even share."
    if errors["type"] == "balanced_l1":
        smooth_l1 = losses["smooth_l1"]
        finding.severity = "balanced"
        finding.numbers[1] = Number(smooth_l1["ratio"], "with smooth L1")
        finding.text = (
            f"This model trains with balanced L1: inliers contribute {percent(share['value'])} of the gradient; with "
            f"smooth L1 they would contribute {percent(smooth_l1['share']['value'])}."
        )
    elif is_imbalance(finding.severity):
        options = [f"--detector.{stage}.box_loss.type balanced_l1"]
        if errors["configured_beta"] != errors["beta"]:
            # L1 has no β, and balanced L1 none of 0: that of the numbers above.
            options.append(f"--detector.{stage}.box_loss.beta {errors['beta']:g}")
        finding.recommend("balanced L1", options, _CHECK)
    return finding


def diagnose_tasks(
    gradients: dict[str, Any], weights: dict[str, dict[str, float]], learned_weights: bool = False
) -> list[Finding]:
    """Check whether classification or box regression of a stage dominates the gradient at the shared pyramid.

    Args:
        weights: current loss weights by stage: ``class``, ``box``.
        learned_weights: whether uncertainty weighting learns factors of them, which undo a change of these weights.
    """
    findings = []
    for pair in gradients["pairs"]:
        if pair["place"] == "pyramid":
            last_stage = "roi" if "roi" in weights else "retinanet"
            stage = "rpn" if pair["class"].startswith("rpn_") else last_stage
            finding = _diagnose_pair(pair, gradients["losses"], stage)
            if is_imbalance(finding.severity) and learned_weights:
                finding.text += _LEARNED_WEIGHTS
            elif is_imbalance(finding.severity):
                _recommend_weight(finding, pair["ratio"]["value"], stage, weights[stage])
            findings.append(finding)
    return findings


def _diagnose_pair(pair: dict[str, Any], losses: dict[str, float], stage: str) -> Finding:
    ratio = pair["ratio"]["value"]
    dominance = max(ratio, 1 / ratio)
    severity = grade(dominance, thresholds.TASKS_STRONG, thresholds.TASKS_MODERATE)
    if severity != "none" and pair["ratio"]["low"] <= 1 <= pair["ratio"]["high"]:
        severity = "inconclusive"
    cascade_stage = pair["class"].partition("class")[2].strip("_")
    name = STAGE_NAMES[stage] + (f", cascade stage {cascade_stage}" if cascade_stage else "")
    key = f"tasks_{stage}_{cascade_stage}" if cascade_stage else f"tasks_{stage}"
    numbers = [
        Number(ratio, "gradient of classification over that of box regression", "ratio"),
        Number(pair["cosine"], "cosine of the two (−1 opposed, 1 aligned)", "decimal"),
    ]
    finding = Finding(key, f"Classification vs. box loss ({name})", severity, numbers, "")
    finding.paper = (
        "The paper names this imbalance but reports no value; a box loss weight of 1.5 alone brought +0.5 AP (Table 6)."
    )
    tasks = {"class": "classification", "box": "box regression"}
    larger, smaller = ("class", "box") if ratio >= 1 else ("box", "class")
    finding.text = (
        f"The {tasks[larger]} loss is {losses[pair[larger]]:.2g}; its gradient at the shared feature pyramid is "
        f"{dominance:.1f} times that of the {tasks[smaller]} loss ({losses[pair[smaller]]:.2g})."
    )
    return finding


def _recommend_weight(finding: Finding, ratio: float, stage: str, weights: dict[str, float]) -> None:
    check = (
        "Change one weight at a time, with the same seed, and compare AP50 (classification) and AP75 (localization)."
    )
    if ratio >= 1:
        finding.text += (
            " A larger box loss weight amplifies outliers most of all: use balanced L1 first, if it is not in use."
        )
        finding.recommend("larger box loss weight", [_option(stage, "box_loss.weight", 1.5 * weights["box"])], check)
    elif "class" in weights:
        option = _option(stage, "cls_loss_weight", 1.5 * weights["class"])
        finding.recommend("larger classification loss weight", [option], check)
    else:
        finding.recommend("smaller box loss weight", [_option(stage, "box_loss.weight", 0.5 * weights["box"])], check)


def _option(stage: str, name: str, value: float) -> str:
    return f"--detector.{stage}.{name} {value:g}"
