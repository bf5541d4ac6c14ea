"""A look at what a detector does on a dataset: detections beside ground truth."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray

from libradet.data.images import load_image
from libradet.data.loading.transforms import Size
from libradet.data.proposals.given import GivenProposals
from libradet.data.rasterize import decode_masks
from libradet.data.records import Dataset, ImageRecord
from libradet.evaluation.classes import match_classes
from libradet.inference.drawing import SheetRow, sheet
from libradet.inference.predictor import predict
from libradet.models.detector import Detector
from libradet.utils.warnings_filter import supervision as sv


def image_sheet(
    model: Detector,
    dataset: Dataset,
    *,
    count: int = 6,
    threshold: float = 0.5,
    size: Size | None = None,
    proposals: GivenProposals | None = None,
) -> UInt8[ndarray, "H W 3"]:
    """Images spread evenly over the dataset (those with objects first), with what is there and what was found.

    Args:
        count: rows, fewer if there are fewer images.
        threshold: least score of the detections shown, 0..1.
        size: as in :func:`libradet.inference.predictor.predict`.
        proposals: of the dataset, for a detector without rpn.
    """
    images = pick(dataset, count)
    pixels = [load_image(p.path, p.upright).permute(1, 2, 0).numpy() for p in images]
    given = None
    if proposals is not None:
        given = [proposals.of(dataset.images.index(p), p.width, p.height) for p in images]
    found = predict(model, pixels, threshold, size, proposals=given)
    assert isinstance(found, list)
    names = [*dataset.class_names, *model.class_names]
    labels = _labels_on_sheet(model, dataset)
    rows = []
    for record, image, detections in zip(images, pixels, found, strict=True):
        detections.class_id = labels[detections.class_id]
        truth = ground_truth(record, dataset.class_names, masks=detections.mask is not None)
        rows.append(SheetRow(image, truth, detections, record.path.name))
    return sheet(rows, names, ("Ground truth", f"Detections (score ≥ {threshold:g})"))


def pick(dataset: Dataset, count: int) -> list[ImageRecord]:
    """At most ``count`` images spread evenly over those with objects (over all if none has any); always the same."""
    candidates = [p for p in dataset.images if len(p.boxes)] or dataset.images
    rows = np.linspace(0, len(candidates) - 1, min(count, len(candidates))).round().astype(int)
    return [candidates[row] for row in rows]


def ground_truth(record: ImageRecord, class_names: Sequence[str], masks: bool = False) -> sv.Detections:
    """The annotated objects of an image; crowd regions are called so.

    Args:
        masks: with their masks, where every object of the image has a segmentation.
    """
    marks = (" (crowd)" if crowd else "" for crowd in record.crowd)
    names = [class_names[label] + mark for label, mark in zip(record.labels, marks, strict=True)]
    return sv.Detections(
        xyxy=record.boxes.astype(np.float32),
        mask=_masks(record) if masks else None,
        class_id=record.labels.astype(int),
        data={"class_name": np.array(names, dtype=np.str_)},
    )


def _masks(record: ImageRecord) -> Bool[ndarray, "G H W"] | None:
    segmented = [s is not None for s in record.segmentations or [None] * len(record.labels)]
    if not all(segmented | record.crowd):
        return None
    return decode_masks(record, record.height, record.width).bool().numpy()


def _labels_on_sheet(model: Detector, dataset: Dataset) -> ndarray:
    """The detector's classes take the dataset's colors; those it does not have come after them."""
    if model.config.proposes:
        return np.array([len(dataset.class_names)])
    labels = np.array(match_classes(model.class_names, dataset.class_names).labels)
    return np.where(labels >= 0, labels, len(dataset.class_names) + np.arange(len(labels)))
