"""Class-wise NMS of detections, of the type that the configuration names."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from libradet.geometry.indexing import gather_rows
from libradet.geometry.iou_guided_nms import iou_guided_nms
from libradet.geometry.nms import batched_nms
from libradet.geometry.soft_nms import soft_nms
from libradet.models.config import DetectionConfig


class NMSResult(NamedTuple):
    """Candidates that NMS has kept.

    Attributes:
        rows: of the kept candidates, best first; 0 in empty slots.
        scores: of the kept candidates; Soft-NMS and IoU-guided NMS change them.
        valid: which slots are filled.
    """

    rows: Int[Tensor, "B K"]
    scores: Float[Tensor, "B K"]
    valid: Bool[Tensor, "B K"]


def multiclass_nms(
    boxes: Float[Tensor, "B N 4"],
    scores: Float[Tensor, "B N"],
    labels: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    config: DetectionConfig,
    quality: Float[Tensor, "B N"] | None = None,
) -> NMSResult:
    """Return the ``config.detections_per_img`` best candidates after NMS within each class.

    Args:
        valid: which candidates are used.
        quality: expected IoU of each box with its object, for IoU-guided NMS.
    """
    if quality is not None:
        kept = iou_guided_nms(
            boxes, scores, quality, labels, valid, threshold=config.nms_thresh, size=config.detections_per_img
        )
        return NMSResult(*kept)
    if config.nms_type == "nms":
        rows, kept = batched_nms(
            boxes, scores, labels, valid, threshold=config.nms_thresh, size=config.detections_per_img
        )
        return NMSResult(rows, gather_rows(scores, rows), kept)
    kept = soft_nms(
        boxes,
        scores,
        labels,
        valid,
        decay="linear" if config.nms_type == "soft_linear" else "gaussian",
        threshold=config.nms_thresh,
        sigma=config.sigma,
        min_score=config.min_score,
        size=config.detections_per_img,
    )
    return NMSResult(*kept)
