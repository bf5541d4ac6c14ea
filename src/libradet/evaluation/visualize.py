"""Visual comparison of ground truth and predictions on a few images of a dataset."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from numpy import ndarray

from libradet.data.image_io import read_image
from libradet.data.masks import decode_masks
from libradet.data.proposals.precomputed import PrecomputedProposals
from libradet.data.records import Dataset, ImageRecord
from libradet.data.transforms.resize import Size
from libradet.data.windows import open_windows, reduced_image
from libradet.evaluation.classes import match_classes
from libradet.inference.inputs import to_input
from libradet.inference.predict import predict, predict_stream
from libradet.inference.tiles import Tiling
from libradet.inference.visualize import GridRow, draw_grid
from libradet.models.detector import Detector
from libradet.utils.quiet_supervision import supervision as sv
from libradet.utils.spacing import evenly_spaced

MAX_DRAWN_SIDE = 2048
"""Longest side of an image in a grid with tiles."""

Drawing = tuple[UInt8[ndarray, "_ _ 3"], sv.Detections, int]
"""An image, its detections in pixels of it, and by what factor it is smaller than its file."""


def plot_predictions_grid(
    model: Detector,
    dataset: Dataset,
    *,
    num_images: int = 6,
    score_thresh: float = 0.5,
    size: Size | None = None,
    proposals: PrecomputedProposals | None = None,
    tiling: Tiling | None = None,
    batch_size: int = 1,
) -> UInt8[ndarray, "H W 3"]:
    """Return a grid of images with ground truth on the left and predictions on the right.

    Images are evenly spaced over those of the dataset that have objects.

    Args:
        num_images: maximum number of rows.
        score_thresh: minimum score of the predictions, 0..1.
        size: as in :func:`libradet.inference.predict.predict`.
        proposals: proposals of the dataset, for a detector without RPN.
        tiling: run the model on tiles, of which ``batch_size`` are a batch; images with a side above MAX_DRAWN_SIDE are
            reduced and drawn without masks.
    """
    records = select_images(dataset, num_images)
    labels = _grid_labels(model, dataset)
    class_names = [*dataset.class_names, *model.class_names]
    if tiling is None:
        pairs = _predict_whole(model, dataset, records, score_thresh, size, proposals)
    else:
        pairs = [_predict_tiles(model, record, score_thresh, size, tiling, batch_size) for record in records]
    rows = []
    for record, (image, detections, step) in zip(records, pairs, strict=True):
        assert detections.class_id is not None
        detections.class_id = labels[detections.class_id]
        truth = ground_truth_detections(record, dataset.class_names, masks=detections.mask is not None)
        truth.xyxy = truth.xyxy / step
        rows.append(GridRow(image, truth, detections, record.path.name))
    return draw_grid(rows, class_names, ("Ground truth", f"Predictions (score >= {score_thresh:g})"))


def _predict_whole(
    model: Detector,
    dataset: Dataset,
    records: Sequence[ImageRecord],
    score_thresh: float,
    size: Size | None,
    proposals: PrecomputedProposals | None,
) -> list[Drawing]:
    images = [read_image(r.path, r.apply_exif, bit_depth=model.bit_depth).permute(1, 2, 0).numpy() for r in records]
    boxes = None
    if proposals is not None:
        boxes = [proposals.boxes_of(dataset.images.index(r), r.width, r.height) for r in records]
    predictions = predict(model, images, score_thresh, size, proposals=boxes)
    assert isinstance(predictions, list)
    return [(image, detections, 1) for image, detections in zip(images, predictions, strict=True)]


def _predict_tiles(
    model: Detector, record: ImageRecord, score_thresh: float, size: Size | None, tiling: Tiling, batch_size: int
) -> Drawing:
    with open_windows(record.path, record.apply_exif, bit_depth=model.bit_depth) as reader:
        inputs = [to_input(reader, record.path)]
        (_, detections), *_ = predict_stream(model, inputs, score_thresh, size, batch_size, tiling)
        pixels, step = reduced_image(reader, MAX_DRAWN_SIDE)
    if step > 1:
        detections = replace(detections, xyxy=detections.xyxy / step, mask=None)
    return pixels.permute(1, 2, 0).numpy(), detections, step


def select_images(dataset: Dataset, limit: int) -> list[ImageRecord]:
    """Return at most ``limit`` evenly spaced images that have objects; of all images if none has any."""
    candidates = [record for record in dataset.images if len(record.boxes)] or dataset.images
    return [candidates[row] for row in evenly_spaced(len(candidates), limit)]


def ground_truth_detections(record: ImageRecord, class_names: Sequence[str], masks: bool = False) -> sv.Detections:
    """Return the annotated objects of an image; ``(crowd)`` is appended to the class names of crowd regions.

    Args:
        masks: include masks, if every object of the image has a segmentation.
    """
    suffixes = (" (crowd)" if crowd else "" for crowd in record.crowd)
    names = [class_names[label] + suffix for label, suffix in zip(record.labels, suffixes, strict=True)]
    return sv.Detections(
        xyxy=record.boxes.astype(np.float32),
        mask=_masks(record) if masks else None,
        class_id=record.labels.astype(int),
        data={"class_name": np.array(names, dtype=np.str_)},
    )


def _masks(record: ImageRecord) -> Bool[ndarray, "G H W"] | None:
    has_segmentation = [s is not None for s in record.segmentations or [None] * len(record.labels)]
    if not all(has_segmentation | record.crowd):
        return None
    return decode_masks(record, record.height, record.width).bool().numpy()


def _grid_labels(model: Detector, dataset: Dataset) -> Int64[ndarray, " C"]:
    """Return the label in the grid for each label of the detector: the dataset's, then classes it does not have."""
    if model.config.is_proposal_model:
        return np.array([len(dataset.class_names)])
    labels = np.array(match_classes(model.class_names, dataset.class_names).labels)
    return np.where(labels >= 0, labels, len(dataset.class_names) + np.arange(len(labels)))
