"""Diagnosis of the feature level: similarity of pyramid levels."""

from typing import Any

import numpy as np

from libradet.analysis.diagnose import thresholds
from libradet.analysis.diagnose.finding import Finding, Number, grade, is_imbalance, percent
from libradet.analysis.levels.feature import level_name

_CHECK = (
    "Compare AP by object size with the same seed, small objects first; then run libradet analyze on the new model: "
    "the similarity after balancing should exceed that before."
)


def diagnose_pyramid(features: dict[str, Any], gradients: list[float]) -> Finding:
    """Check whether pyramid levels are dissimilar.

    Args:
        gradients: norm of the gradient at each level, before balancing.
    """
    before, after = features["before"], features["after"]
    names = [level_name(stride) for stride in features["strides"]]
    mean = before["mean_cka"]
    key, title = "pyramid", "Feature pyramid"
    if mean is None:
        return Finding(key, title, "inconclusive", [], "The pyramid has a single level; there is nothing to balance.")
    numbers = [Number(mean, "mean similarity of two levels (linear CKA, 0 to 1)", "decimal")]
    if sum(gradients):
        largest = int(np.argmax(gradients))
        share = gradients[largest] / sum(gradients)
        numbers.append(Number(share, f"of the gradient magnitude is at {names[largest]}"))
    severity = grade(mean, thresholds.CKA_STRONG, thresholds.CKA_MODERATE)
    finding = Finding(key, title, severity, numbers, "")
    finding.paper = (
        "The paper reports no similarity: the thresholds are libradet's own. It reports +0.9 AP over IoU-balanced "
        "sampling alone, with similar gains for small, medium and large objects (Table 2)."
    )
    isolated, dominant = int(np.argmin(before["others"])), int(np.argmax(before["integration"]))
    most_isolated = f"{names[isolated]} is the most isolated level (mean similarity {before['others'][isolated]:.2f})."
    if features["balanced"]:
        numbers.insert(1, Number(after["mean_cka"], "after balancing", "decimal"))
        finding.severity = "balanced"
        finding.text = (
            f"This model balances its pyramid, which changes the mean similarity from {mean:.2f} to "
            f"{after['mean_cka']:.2f}. Before balancing, {most_isolated}"
        )
        if features.get("gates"):
            gates = ", ".join(f"{name} {gate:+.2f}" for name, gate in zip(names, features["gates"], strict=True))
            finding.text += f" Learned gates, the factors of the average: {gates}; 0 adds nothing."
        return finding
    finding.text = (
        f"{most_isolated} In a plain average of all {len(names)} levels at the size of {names[features['target']]}, "
        f"{names[dominant]} contributes most: {percent(before['integration'][dominant])}."
    )
    if is_imbalance(severity):
        # With gates, the pyramid starts as the plain one: what it adds is learned, so it can do no harm at first.
        options = ["--detector.pyramid.balanced.gated true"]
        if features["target"] != 2:
            options.append(f"--detector.pyramid.balanced.level {features['target']}")
        finding.recommend("balanced feature pyramid", options, _CHECK)
    return finding
