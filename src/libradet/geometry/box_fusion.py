"""Weighted boxes fusion (Solovyev et al., 2021): boxes of one object are averaged instead of selected."""

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray


def weighted_boxes_fusion(
    boxes: Float64[ndarray, "N 4"], scores: Float64[ndarray, " N"], labels: Int64[ndarray, " N"], threshold: float
) -> tuple[Float64[ndarray, "K 4"], Float64[ndarray, " K"], Int64[ndarray, " K"]]:
    """Fuse the boxes of each class.

    By falling score, each box joins the cluster of its class whose average it overlaps most, if their IoU exceeds
    ``threshold``, and otherwise starts one. A cluster's box is the average of its boxes, weighted by their scores, and
    its score their mean.

    Args:
        boxes: xyxy; boxes without area are dropped.
        scores: above 0.
        labels: classes.
        threshold: IoU.

    Returns:
        boxes, scores and labels of the clusters, by falling score.
    """
    has_area = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    parts = [
        (*_fuse(boxes[rows], scores[rows], threshold), label)
        for label in np.unique(labels[has_area])
        if len(rows := np.flatnonzero(has_area & (labels == label)))
    ]
    if not parts:
        return np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64)
    fused = np.concatenate([part for part, _, _ in parts])
    means = np.concatenate([part for _, part, _ in parts])
    classes = np.concatenate([np.full(len(part), label, np.int64) for _, part, label in parts])
    order = np.argsort(-means, kind="stable")
    return fused[order], means[order], classes[order]


def _fuse(
    boxes: Float64[ndarray, "N 4"], scores: Float64[ndarray, " N"], threshold: float
) -> tuple[Float64[ndarray, "K 4"], Float64[ndarray, " K"]]:
    """Fuse the boxes of one class, at least one."""
    order = np.argsort(-scores, kind="stable")
    sums, averages = np.zeros_like(boxes), np.zeros_like(boxes)
    totals, counts = np.zeros(len(boxes)), np.zeros(len(boxes), np.int64)
    used = 0
    for box, score in zip(boxes[order], scores[order], strict=True):
        overlaps = _iou(averages[:used], box)
        cluster = int(overlaps.argmax()) if used else 0
        if not used or overlaps[cluster] <= threshold:
            cluster, used = used, used + 1
        sums[cluster] += score * box
        totals[cluster] += score
        counts[cluster] += 1
        averages[cluster] = sums[cluster] / totals[cluster]
    return averages[:used], totals[:used] / counts[:used]


def _iou(boxes: Float64[ndarray, "N 4"], box: Float64[ndarray, " 4"]) -> Float64[ndarray, " N"]:
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    shared = sides.clip(0, None).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return shared / (areas + (box[2:] - box[:2]).prod() - shared)
