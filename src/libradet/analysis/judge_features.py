"""Verdict on the feature level: what pyramid levels have in common."""

from typing import Any

import numpy as np

from libradet.analysis import thresholds as limits
from libradet.analysis.finding import Finding, Number, grade, percent


def level_name(stride: int) -> str:
    """P2 for stride 4, and so on."""
    return f"P{stride.bit_length() - 1}"


def judge_pyramid(features: dict[str, Any], gradients: list[float]) -> Finding:
    """Whether levels know of each other.

    Args:
        gradients: norm of the gradient that each level gets, before any balancing.
    """
    before, after = features["before"], features["after"]
    names = [level_name(stride) for stride in features["strides"]]
    mean = before["mean_cka"]
    if mean is None:
        return Finding("pyramid", "Pyramid levels", "undecided", [], "The pyramid has one level: there is no balance.")
    lonely, loud = int(np.argmin(before["others"])), int(np.argmax(before["integration"]))
    numbers = [Number(mean, "mean similarity of two levels (linear CKA, 0 to 1)", "decimal")]
    if sum(gradients):
        first = int(np.argmax(gradients))
        numbers.append(Number(gradients[first] / sum(gradients), f"of the gradient goes to {names[first]}"))
    level = grade(mean, limits.CKA_STRONG, limits.CKA_SOME)
    finding = Finding("pyramid", "Pyramid levels", level, numbers, "")
    finding.paper = (
        "The paper measures no similarity, so the limits are ours; its gain is +0.9 AP over sampling alone, small, "
        "medium and large objects alike (Table 2)."
    )
    alone = f"{names[lonely]} shares least with the others ({before['others'][lonely]:.2f})."
    plain = (
        f"A plain average of all {len(names)} levels at the size of {names[features['target']]} would be "
        f"{percent(before['integration'][loud])} {names[loud]}."
    )
    if features["balanced"]:
        numbers.insert(1, Number(after["mean_cka"], "after balancing", "decimal"))
        finding.level = "balanced"
        finding.text = (
            f"This model balances its pyramid, which moves the similarity of levels from {mean:.2f} to "
            f"{after['mean_cka']:.2f}. Before, {alone}"
        )
        return finding
    finding.text = f"{alone} {plain}"
    if level in ("strong", "some"):
        finding.paper += (
            " On the two small sets of docs/results/small_data.md, whose levels are as little alike, it brought none."
        )
        finding.options = ["--detector.pyramid.balanced.refine non_local"]
        if features["target"] != 2:
            finding.options.append(f"--detector.pyramid.balanced.level {features['target']}")
        finding.check = (
            "Compare AP by size with the same seed, small objects first; then run libradet analyze on the new model: "
            "similarity after balancing has to exceed that before."
        )
    return finding
