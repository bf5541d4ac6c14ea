"""A look at what a detector does on a data set: detections beside ground truth."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray

from libradet.data.loading.transforms import Size
from libradet.data.pictures import load_picture
from libradet.data.proposals.given import GivenProposals
from libradet.data.rasterise import decode_masks
from libradet.data.records import Dataset, Picture
from libradet.evaluation.classes import match_classes
from libradet.inference.drawing import SheetRow, sheet
from libradet.inference.predictor import predict
from libradet.models.detector import Detector
from libradet.quiet import supervision as sv


def picture_sheet(
    model: Detector,
    dataset: Dataset,
    *,
    count: int = 6,
    threshold: float = 0.5,
    size: Size | None = None,
    proposals: GivenProposals | None = None,
) -> UInt8[ndarray, "H W 3"]:
    """Pictures spread evenly over the data set (those with objects first), with what is there and what was found.

    Args:
        count: rows, fewer if there are fewer pictures.
        threshold: least score of the detections shown, 0..1.
        size: as in :func:`libradet.inference.predictor.predict`.
        proposals: of the data set, for a detector without rpn.
    """
    pictures = pick(dataset, count)
    pixels = [load_picture(p.path, p.upright).permute(1, 2, 0).numpy() for p in pictures]
    given = None
    if proposals is not None:
        given = [proposals.of(dataset.pictures.index(p), p.width, p.height) for p in pictures]
    found = predict(model, pixels, threshold, size, proposals=given)
    assert isinstance(found, list)
    names = [*dataset.class_names, *model.class_names]
    labels = _labels_on_sheet(model, dataset)
    rows = []
    for picture, image, detections in zip(pictures, pixels, found, strict=True):
        detections.class_id = labels[detections.class_id]
        truth = ground_truth(picture, dataset.class_names, masks=detections.mask is not None)
        rows.append(SheetRow(image, truth, detections, picture.path.name))
    return sheet(rows, names, ("Ground truth", f"Detections (score ≥ {threshold:g})"))


def pick(dataset: Dataset, count: int) -> list[Picture]:
    """At most ``count`` pictures spread evenly over those with objects (over all if none has any); always the same."""
    candidates = [p for p in dataset.pictures if len(p.boxes)] or dataset.pictures
    rows = np.linspace(0, len(candidates) - 1, min(count, len(candidates))).round().astype(int)
    return [candidates[row] for row in rows]


def ground_truth(picture: Picture, class_names: Sequence[str], masks: bool = False) -> sv.Detections:
    """The annotated objects of a picture; crowd regions are called so.

    Args:
        masks: with their masks, where every object of the picture has a segmentation.
    """
    marks = (" (crowd)" if crowd else "" for crowd in picture.crowd)
    names = [class_names[label] + mark for label, mark in zip(picture.labels, marks, strict=True)]
    return sv.Detections(
        xyxy=picture.boxes.astype(np.float32),
        mask=_masks(picture) if masks else None,
        class_id=picture.labels.astype(int),
        data={"class_name": np.array(names, dtype=np.str_)},
    )


def _masks(picture: Picture) -> Bool[ndarray, "G H W"] | None:
    segmented = [s is not None for s in picture.segmentations or [None] * len(picture.labels)]
    if not all(segmented | picture.crowd):
        return None
    return decode_masks(picture, picture.height, picture.width).bool().numpy()


def _labels_on_sheet(model: Detector, dataset: Dataset) -> ndarray:
    """The detector's classes take the data set's colours; those it does not have come after them."""
    if model.config.proposes:
        return np.array([len(dataset.class_names)])
    labels = np.array(match_classes(model.class_names, dataset.class_names).labels)
    return np.where(labels >= 0, labels, len(dataset.class_names) + np.arange(len(labels)))
