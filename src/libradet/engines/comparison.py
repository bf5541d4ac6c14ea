"""Comparison of an engine with the detector in eager mode."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from libradet.data.batch import Batch
from libradet.data.collate import prepare_batch
from libradet.engines.choose import EnginePrecision
from libradet.errors import UserError
from libradet.export.verification import RGBImage, detection_agreement
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

MAX_UNMATCHED = 3
"""Number of detections that may lack a counterpart in fp32, however few there are: the tensors are compared anyway."""

CONFIDENT_SCORE = 0.3

GRID = 4
"""Regions on which box heads are compared: cells of a grid of 4 rows and columns, and the whole image."""


class EngineDifference(NamedTuple):
    """Difference between an engine and the detector in eager mode in float32.

    Attributes:
        relative: largest relative difference of a feature map, or of the predictions for anchors or for fixed regions.
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
    precision: EnginePrecision
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
    if not is_rounding(difference, precision):
        raise UserError(f"the engine {engine} does not compute what this {model.name} does: {difference}; use eager")
    return difference


def compare_int8(model: Detector, quantized: Detector, images: Sequence[RGBImage]) -> EngineDifference:
    """Run both on calibration images, and return the differences: of tensors on the first image, of detections on all.

    Raises:
        UserError: there are no detections to compare, or more than half of the confident ones are lost.
    """
    reference = optimize(model)
    batch = prepare_batch([images[0]], model.image_size, model.size_divisible, None)
    relative = _relative_difference(reference, quantized, batch)
    agreement = detection_agreement(reference, quantized, images, model.image_size)
    if not agreement.detections:
        raise UserError(
            "INT8 quantization cannot be verified: the model detects nothing in the calibration images; use images "
            "with objects"
        )
    if not agreement.is_sufficient:
        raise UserError(f"INT8 quantization loses most detections: {agreement}; use fp32 or bf16")
    return EngineDifference(relative, agreement.matched, agreement.detections)


def is_rounding(difference: EngineDifference, precision: Precision) -> bool:
    """Whether rounding explains a difference."""
    relative, matched, detections = difference
    required = MIN_MATCHED[precision] * detections
    if precision == "fp32":
        required = min(required, detections - MAX_UNMATCHED)
    return relative <= MAX_DIFFERENCE[precision] and matched >= required


def _proposals(model: Detector, size: int) -> list[Tensor] | None:
    """Return one proposal, the whole square of this side, for a detector that needs proposals."""
    return [torch.tensor([[0.0, 0.0, size, size]])] if model.num_proposals else None


@torch.inference_mode()
def _relative_difference(reference: Detector, optimized: Detector, batch: Batch) -> float:
    assert optimized.dense_engine is not None
    batch = batch.to(reference.device)
    expected = reference.compute_dense(reference.normalize(batch))
    actual = optimized.dense_engine(optimized.normalize(batch))
    pairs = [*zip(expected, actual, strict=True), *_head_outputs(reference, optimized, expected, batch)]
    differences = [(theirs.float() - own).norm() / own.norm().clamp(min=1e-6) for own, theirs in pairs]
    return float(torch.stack(differences).max())  # NaN if one of them is


def _head_outputs(
    reference: Detector, optimized: Detector, features: list[Tensor], batch: Batch
) -> list[tuple[Tensor, Tensor]]:
    """Return the predictions of both for the same regions of the same features, for each box head."""
    if reference.roi is None or optimized.roi is None:
        return []
    levels = features[: reference.config.pyramid.num_levels]
    height, width = batch.images.shape[2:]
    rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    cells = torch.stack([columns, rows, columns + 1, rows + 1], -1).view(-1, 4) / GRID
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    boxes = (torch.cat([whole, cells]) * torch.tensor([width, height, width, height]))[None].to(reference.device)
    valid = torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
    outputs = []
    for own, theirs in zip(reference.roi.box_heads, optimized.roi.box_heads, strict=True):
        expected = own.run_box_head(levels, boxes, valid)
        actual = theirs.run_box_head([level.to(optimized.dtype) for level in levels], boxes, valid)
        outputs += [(expected.logits, actual.logits), (expected.deltas, actual.deltas)]
    return outputs


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
