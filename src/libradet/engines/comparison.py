"""Comparison of an engine with the detector in eager mode."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from libradet.data.batch import Batch
from libradet.data.collate import prepare_batch
from libradet.errors import UserError
from libradet.export.verification import RGBImage
from libradet.inference.predict import predict_batch
from libradet.models.detector import Detector
from libradet.models.optimize import Precision, optimize

MAX_DIFFERENCE = {"fp32": 1e-3, "bf16": 0.05}
"""Norm of the difference of a tensor over the norm of the tensor that is accepted."""

MATCH_IOU, MATCH_SCORE = {"fp32": 0.99, "bf16": 0.5}, {"fp32": 1e-3, "bf16": 0.1}
MIN_MATCHED = {"fp32": 0.98, "bf16": 0.5}
"""Share of detections that have to have a counterpart: of the same class, this IoU and this difference of scores.

Less than all of them, because rounding decides between candidates of equal scores or of an IoU at NMS's threshold.
"""

CONFIDENT_SCORE = 0.3


class EngineDifference(NamedTuple):
    """Difference between an engine and the detector in eager mode in float32.

    Attributes:
        relative: largest relative difference of a feature map or of the predictions for anchors.
        matched: number of detections with a counterpart.
        detections: number of the detector's detections.
    """

    relative: float
    matched: int
    detections: int

    def __str__(self) -> str:
        return f"relative difference {self.relative:.1e}, {self.matched} of {self.detections} detections are the same"


class EngineReport(NamedTuple):
    """An engine, its preparation, and its comparison with the detector.

    Attributes:
        engine, precision: as chosen.
        seconds: of preparation, comparison included.
        difference: from the detector in eager mode.
    """

    engine: str
    precision: Precision
    seconds: float
    difference: EngineDifference

    def __str__(self) -> str:
        return f"engine {self.engine}, {self.precision}, ready after {self.seconds:.0f} s: {self.difference}"


def compare(
    model: Detector, optimized: Detector, precision: Precision, image: RGBImage, engine: str
) -> EngineDifference:
    """Run both on an image and return the differences.

    Raises:
        UserError: they are larger than rounding explains.
    """
    reference = optimize(model)
    size = min(image.shape[:2])
    batch = prepare_batch([image], model.image_size, model.size_divisible, _proposals(model, size))
    relative = _relative_difference(reference, optimized, batch)
    matched, detections = _count_matches(reference, optimized, precision, batch)
    difference = EngineDifference(relative, matched, detections)
    if relative > MAX_DIFFERENCE[precision] or matched < MIN_MATCHED[precision] * detections:
        raise UserError(f"the engine {engine} does not compute what this {model.name} does: {difference}; use eager")
    return difference


def _proposals(model: Detector, size: int) -> list[Tensor] | None:
    """Return one proposal, the whole square of this side, for a detector that needs proposals."""
    return [torch.tensor([[0.0, 0.0, size, size]])] if model.num_proposals else None


@torch.inference_mode()
def _relative_difference(reference: Detector, optimized: Detector, batch: Batch) -> float:
    assert optimized.dense_engine is not None
    batch = batch.to(reference.device)
    expected = reference.compute_dense(reference.normalize(batch))
    actual = optimized.dense_engine(optimized.normalize(batch))
    pairs = zip(expected, actual, strict=True)
    return max(float((theirs.float() - own).norm() / own.norm().clamp(min=1e-6)) for own, theirs in pairs)


def _count_matches(reference: Detector, optimized: Detector, precision: Precision, batch: Batch) -> tuple[int, int]:
    """Return the number of the reference's detections that the other one has, too, and their number.

    In bf16, only confident ones count: scores at or above 0.3, or half of the highest one.
    """
    expected, actual = (predict_batch(detector, batch) for detector in (reference, optimized))
    rows, others = expected.valid[0], actual.valid[0]
    if not rows.any():
        return 0, 0
    boxes, scores, labels = (t[0][rows].float() for t in expected[:3])
    other_boxes, other_scores, other_labels = (t[0][others].float() for t in actual[:3])
    near = box_iou(boxes, other_boxes) >= MATCH_IOU[precision]
    near &= (scores[:, None] - other_scores).abs() <= MATCH_SCORE[precision]
    near &= labels[:, None] == other_labels
    counted = scores >= (min(CONFIDENT_SCORE, float(scores.max()) / 2) if precision == "bf16" else 0)
    return int(near.any(1)[counted].sum()), int(counted.sum())
