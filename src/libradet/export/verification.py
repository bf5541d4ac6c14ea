"""Comparison of an exported file with the detector that it was exported from."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor
from torchvision.ops import box_iou

from libradet.data.collate import prepare_batch
from libradet.data.synthesis.synthetic import draw_scene
from libradet.data.transforms.resize import Size
from libradet.export.exported_model import ExportedModel
from libradet.inference.predict import predict_batch
from libradet.predictor import Predictor
from libradet.utils.text import counted

RGBImage = UInt8[ndarray, "_ _ 3"]
RGBImages = Annotated[Sequence[RGBImage], "a list of uint8 RGB arrays [H, W, 3]"]

BOX_TOLERANCE, SCORE_TOLERANCE, MASK_TOLERANCE = 1e-2, 1e-3, 1e-2
"""Largest differences of boxes (in pixels of the image), scores and mask cells that are accepted."""

CONFIDENT_SCORE, MATCH_IOU = 0.3, 0.5
"""Score of the detections that a quantized file should reproduce, and the IoU at which it does."""

SYNTHETIC_SIZES = ((480, 640, 1), (333, 250, 3), (121, 203, 1))
"""Height, width and number of the synthetic images that every file is verified on."""


@dataclass
class OutputDifference:
    """Largest differences between the outputs of a detector and an exported file.

    Attributes:
        pixels: of box coordinates, in pixels of the images.
        score: of scores.
        mask: of mask cells.
        images: number of images that were compared.
        detections: number of the detector's detections in them.
    """

    pixels: float = 0.0
    score: float = 0.0
    mask: float = 0.0
    images: int = 0
    detections: int = 0

    @property
    def is_small(self) -> bool:
        """Whether all differences are within the tolerances."""
        return self.pixels <= BOX_TOLERANCE and self.score <= SCORE_TOLERANCE and self.mask <= MASK_TOLERANCE

    def __str__(self) -> str:
        masks = f", {self.mask:.1e} in mask cells" if self.mask else ""
        return (
            f"{counted(self.detections, 'detection')} in {counted(self.images, 'image')}, maximum "
            f"difference {self.pixels:.1e} px, "
            f"{self.score:.1e} in score{masks}"
        )


class QuantizationAgreement(NamedTuple):
    """Number of detections that a quantized file or detector reproduces.

    Attributes:
        matched: detections of the float model that it outputs with the same class and an IoU of at least 0.5.
        detections: detections of the float model with a score of at least ``score_thresh``.
        score_thresh: 0.3, or half of the highest score if none is that high.
    """

    matched: int
    detections: int
    score_thresh: float = CONFIDENT_SCORE

    @property
    def is_sufficient(self) -> bool:
        """Whether at least half of the detections are reproduced, and there are any."""
        return 0 < self.detections <= 2 * self.matched

    def __str__(self) -> str:
        return f"{self.matched} of {self.detections} detections (score >= {self.score_thresh:.2g}) are reproduced"


def synthetic_images(static: tuple[int, int, int] | None = None) -> list[RGBImage]:
    """Return scenes of several sizes, the same every time; images of equal size are adjacent.

    Args:
        static: number, height and width of the images of a batch: return one more of this size.
    """
    rng = np.random.default_rng(0)
    sizes = SYNTHETIC_SIZES if static is None else ((static[1], static[2], static[0] + 1),)
    return [draw_scene(rng, (width, height), 5)[0] for height, width, count in sizes for _ in range(count)]


def max_difference(model: Predictor, exported: ExportedModel, images: Sequence[RGBImage]) -> OutputDifference:
    """Run both on the same images and return the largest differences.

    Adjacent images of equal size run as one batch. A difference is infinite where a detection of one side has no
    counterpart of its class on the other, or numbers of one side are not finite.
    """
    difference = OutputDifference(images=len(images))
    metadata = exported.metadata
    for _, group in groupby(images, lambda image: image.shape):
        batch = list(group)
        expected = _detect(model, metadata.image_size, batch, metadata.score_thresh)
        actual = _detect(exported, exported.image_size, batch, metadata.score_thresh)
        for ours, theirs in zip(expected, actual, strict=True):
            difference.detections += len(ours.scores)
            if not (ours.is_finite and theirs.is_finite):
                difference.pixels = math.inf
                continue
            _update_difference(difference, ours, theirs)
            _update_difference(difference, theirs, ours)
    return difference


def detection_agreement(
    model: Predictor, quantized: Predictor, images: Sequence[RGBImage], size: Size | None = None
) -> QuantizationAgreement:
    """Run both on the same images, one at a time, and count the confident detections that both output.

    Args:
        model: detector in float.
        quantized: exported file or detector that computes in INT8.
        size: that the float detector's images are resized to; its own by default.
    """
    matched = detections = 0
    size = model.image_size if size is None else size
    pairs = [
        (next(_detect(model, size, [image])), next(_detect(quantized, quantized.image_size, [image])))
        for image in images
    ]
    highest = max((float(ours.scores.max()) for ours, _ in pairs if len(ours.scores)), default=0.0)
    score_thresh = CONFIDENT_SCORE if highest >= CONFIDENT_SCORE else highest / 2
    for ours, theirs in pairs:
        confident = ours.scores >= score_thresh
        overlapping = box_iou(ours.boxes[confident], theirs.boxes) >= MATCH_IOU
        same_class = ours.labels[confident][:, None] == theirs.labels
        matched += int((overlapping & same_class).any(1).sum())
        detections += int(confident.sum())
    return QuantizationAgreement(matched, detections, score_thresh)


class ImageDetections(NamedTuple):
    """Detections of one image, in its pixels.

    Attributes:
        min_score: detections with lower scores may be missing, because they are near the score threshold or did not
            fit into the output.
    """

    boxes: Float[Tensor, "D 4"]
    scores: Float[Tensor, " D"]
    labels: Int[Tensor, " D"]
    masks: Float[Tensor, "D M M"] | None
    min_score: float

    @property
    def is_finite(self) -> bool:
        """Whether no number is NaN or infinite."""
        values = [self.boxes, self.scores] if self.masks is None else [self.boxes, self.scores, self.masks]
        return all(bool(value.isfinite().all()) for value in values)


def _detect(
    model: Predictor, size: Size, images: Sequence[RGBImage], score_thresh: float = 0.0
) -> Iterator[ImageDetections]:
    proposals = None
    if model.num_proposals:
        proposals = [_random_proposals(image, seed) for seed, image in enumerate(images)]
    batch = prepare_batch(images, size, model.size_divisible, proposals)
    detections = predict_batch(model, batch)
    assert batch.scales is not None
    for row, image in enumerate(images):
        image_ends = torch.tensor([image.shape[1], image.shape[0]] * 2)
        boxes = detections.boxes[row].double() / batch.scales[row].double().repeat(2)
        boxes = torch.minimum(boxes, image_ends).where(boxes.isfinite(), torch.nan)  # infinity stays recognizable
        valid = detections.valid[row]
        scores = detections.scores[row][valid].float()
        masks = None if detections.masks is None else detections.masks[row][valid].float()
        lowest = float(scores.min()) if valid.all() else score_thresh
        labels = detections.labels[row][valid]
        yield ImageDetections(boxes[valid].float(), scores, labels, masks, lowest + SCORE_TOLERANCE)


def _random_proposals(image: RGBImage, seed: int, count: int = 200) -> Float[Tensor, "P 4"]:
    """Return proposals of all sizes."""
    corners = np.sort(np.random.default_rng(seed).uniform(0, 1, (count, 2, 2)), axis=1)
    return torch.from_numpy((corners * image.shape[1::-1]).reshape(-1, 4)).float()


def _update_difference(difference: OutputDifference, ours: ImageDetections, theirs: ImageDetections) -> None:
    """Match each detection of ``ours`` with the nearest of ``theirs`` of the same class, and update the maxima."""
    if not len(ours.scores):
        return
    missing = ours.boxes.new_full((len(ours.scores), 1), torch.inf)
    pixels = torch.cat([torch.cdist(ours.boxes, theirs.boxes, p=torch.inf), missing], 1)
    score = torch.cat([(ours.scores[:, None] - theirs.scores).abs(), missing], 1)
    other_class = torch.cat([ours.labels[:, None] != theirs.labels, missing.isinf()], 1)
    distance = torch.maximum(pixels / BOX_TOLERANCE, score / SCORE_TOLERANCE).masked_fill(other_class, torch.inf)
    nearest, match = distance.min(1)
    required = ours.scores > max(ours.min_score, theirs.min_score)
    rows = torch.arange(len(match))[required | (nearest <= 1)]
    if not len(rows):
        return
    # Without a counterpart of its class, any other one is the nearest.
    own_pixels = pixels[rows, match[rows]].where(nearest[rows].isfinite(), torch.inf)
    difference.pixels = max(difference.pixels, float(own_pixels.amax()))
    difference.score = max(difference.score, float(score[rows, match[rows]].amax()))
    if ours.masks is not None and theirs.masks is not None and nearest[rows].isfinite().all():
        mask_difference = (ours.masks[rows] - theirs.masks[match[rows]]).abs().max()
        difference.mask = max(difference.mask, float(mask_difference))
