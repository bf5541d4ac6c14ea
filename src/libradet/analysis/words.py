"""What keys of the report are called on the page."""

from libradet.analysis.judge_features import level_name

STAGES = {"rpn": "anchors of the RPN", "roi": "proposals of the second stage", "dense": "anchors"}

SAMPLERS = {
    "all": "all negatives",
    "hard": "hard negatives",
    "by_loss": "all, weighted by their loss",
    "random": "random",
    **{
        f"iou_balanced_{bins}_{k}": f"IoU-balanced, K = {k}" + (" (mmdet)" if bins == "mmdet" else "")
        for bins in ("paper", "mmdet")
        for k in (2, 3, 5)
    },
    "hardest": "hardest (OHEM)",
    "own": "as this model samples",
}

POSITIVES = {
    "available": "all there are",
    "random": "random",
    "instance_balanced": "instance-balanced",
    "hardest": "hardest",
}


def loss_name(key: str) -> str:
    """``balanced_l1_0.5_1.5`` as "balanced L1, α 0.5, γ 1.5"."""
    if key.startswith("balanced_l1_"):
        alpha, gamma = key.split("_")[2:]
        return f"balanced L1, α {alpha}, γ {gamma}"
    return {"smooth_l1": "smooth L1", "l1": "L1", "own": "this model's own"}[key]


def levels(strides: list[int]) -> list[str]:
    """P2, P3, ... of a pyramid."""
    return [level_name(stride) for stride in strides]
