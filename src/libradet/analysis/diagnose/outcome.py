"""Diagnosis of the results: object size, and the error types that cost the most AP."""

from typing import Any

from libradet.analysis.diagnose import thresholds
from libradet.analysis.diagnose.finding import Finding, Number, grade, is_imbalance, percent

_ADVICE = {
    "classification": (
        "Boxes are correct but their class is wrong: check the most similar classes, and how evenly they occur.",
        "",
    ),
    "localization": (
        "Objects are detected with inaccurate boxes (IoU 0.1 to 0.5): the subject of the objective level, and of "
        "negatives that almost fit.",
        "balanced L1, followed by IoU-balanced sampling,",
    ),
    "both": (
        "Both box and class are wrong: the model is undertrained; train longer before balancing.",
        "",
    ),
    "duplicate": (
        "Objects are detected more than once: lower --detector.detections.nms_thresh, which needs no training.",
        "",
    ),
    "background": (
        "Detections on background (IoU below 0.1): background that is not learned yet, or objects that are not "
        "annotated. Train longer first, and inspect the detections with the highest scores among them.",
        "",
    ),
    "missed": (
        "Objects are not detected: check their size, the pyramid levels that they are assigned to, and how many "
        "positives they receive.",
        "the balanced feature pyramid",
    ),
}

FEWER_BACKGROUND_NEGATIVES = (
    "IoU-balanced sampling draws fewer background negatives, in favor of negatives near objects: it can lose in AP50 "
    "what it gains in AP75."
)


def diagnose_sizes(sizes: list[dict[str, Any]], metric: str) -> Finding | None:
    """Compare small with large objects; None where one of the two is missing.

    Args:
        metric: "AP", or "AR" for proposals.
    """
    small, large = sizes[0], sizes[2]
    if small["objects"] and large["objects"] and large[metric]:
        low, high = small, large
    else:
        measured = [row for row in sizes if row["objects"] and row[metric]]
        if len(measured) < 2:
            return None
        low, high = measured[0], measured[-1]
    ratio = (low[metric] or 0.0) / high[metric]
    severity = grade(ratio, thresholds.SIZES_STRONG, thresholds.SIZES_MODERATE)
    numbers = [Number(row[metric], f"{metric} of {row['size']} objects", "decimal") for row in (low, high)]
    text = (
        f"{low['size'].capitalize()} objects ({low['objects']:,}) reach {percent(ratio)} of the {metric} of "
        f"{high['size']} ones ({high['objects']:,})."
    )
    paper = (
        f"COCO (paper): the baseline's AP of small objects is {percent(thresholds.PAPER_SMALL)} of that of large ones."
    )
    if metric != "AP":
        paper += " It reports no recall by object size, so the thresholds are those of AP."
    finding = Finding("sizes", "Object size", severity, numbers, text, paper)
    if min(low["objects"], high["objects"]) < thresholds.MIN_OBJECTS:
        finding.severity = "inconclusive"
        finding.text += f" One of the groups has fewer than {thresholds.MIN_OBJECTS} objects: too few for a conclusion."
    elif is_imbalance(severity):
        finding.text += (
            " Use larger images first: --detector.image.size; the balanced feature pyramid brought +1.3 in the paper."
        )
        finding.check = f"Compare {metric} of small objects; the cost of larger images grows with their area."
    return finding


def diagnose_errors(error_types: dict[str, Any] | None, uses_sampling: bool) -> Finding | None:
    """Name the error type that costs the most AP50; None where fixing any single type gains nothing.

    Args:
        uses_sampling: whether the detector samples negatives, so that the sampler could be changed.
    """
    if error_types is None:
        return None
    ordered = sorted(error_types["types"].items(), key=lambda item: -item[1]["cost"])
    (first, most), (second, next_most) = ordered[:2]
    if most["cost"] <= 0:
        return None
    numbers = [
        Number(most["cost"], f"points of AP50 lost to {_error_name(first)}", "points"),
        Number(next_most["cost"], f"points lost to {_error_name(second)}", "points"),
        Number(error_types["AP50"], "current AP50", "decimal"),
    ]
    text, component = _ADVICE[first]
    if component:
        text += f" Of the paper's components, {component} addresses this."
    if first == "background" and uses_sampling:
        text += f" {FEWER_BACKGROUND_NEGATIVES}"
    return Finding("errors", "Error types (TIDE)", "outcome", numbers, text)


def _error_name(error_type: str) -> str:
    names = {"missed": "missed objects", "both": "wrong class and box", "duplicate": "duplicates"}
    return names.get(error_type, f"{error_type} errors")
