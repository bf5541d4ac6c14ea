"""Labels of the report's keys, and how numbers are printed."""

from libradet.analysis.levels.feature import level_name

STAGE_LABELS = {"rpn": "anchors of the RPN", "roi": "proposals of the RoI heads", "retinanet": "anchors"}

SAMPLER_LABELS = {
    "all": "all negatives",
    "hard": "hard negatives",
    "loss_weighted": "all, weighted by loss",
    "random": "random",
    **{
        f"iou_balanced_{bins}_{k}": f"IoU-balanced, K = {k}" + (" (mmdet)" if bins == "mmdet" else "")
        for bins in ("paper", "mmdet")
        for k in (2, 3, 5)
    },
    "ohem": "OHEM",
    "own": "this model's sampler",
}

POSITIVE_SAMPLER_LABELS = {
    "available": "all positives",
    "random": "random",
    "instance_balanced": "instance-balanced",
    "ohem": "OHEM",
}


def loss_name(key: str) -> str:
    """Return ``balanced_l1_0.5_1.5`` as "balanced L1, α 0.5, γ 1.5"."""
    if key.startswith("balanced_l1_"):
        alpha, gamma = key.split("_")[2:]
        return f"balanced L1, α {alpha}, γ {gamma}"
    return {"smooth_l1": "smooth L1", "l1": "L1", "own": "this model's loss"}[key]


def level_names(strides: list[int]) -> list[str]:
    """Return P2, P3, ... for the strides of a pyramid."""
    return [level_name(stride) for stride in strides]


def format_number(value: float | int | None, style: str) -> str:
    """Format a number for the report; a dash for None.

    Args:
        style: ``percent`` (of a share), ``points`` (the same with one digit and no sign), ``decimal``, ``small`` (three
            significant digits), ``ratio`` (followed by a multiplication sign), ``count``.
    """
    if value is None:
        return "–"
    if style == "percent":
        text = f"{100 * value:.0f}\u00a0%"
    elif style == "points":
        text = f"{100 * value:.1f}"
    elif style == "decimal":
        text = f"{value:.2f}"
    elif style == "small":
        text = f"{value:.3g}"
    elif style == "ratio":
        text = f"{value:.1f}\u00a0×" if value < 10 else f"{value:.0f}\u00a0×"
    elif style == "count":
        text = f"{value:,.0f}"
    else:
        raise ValueError(f"unknown number style {style!r}")
    return text.replace("-", "−")
