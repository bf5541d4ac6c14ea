"""Conversion of datasets from and to ``supervision.DetectionDataset``, which has paths, boxes and class names.

Boxes and labels are equal on both sides. COCO's other fields are stored in the ``data`` of the detections, as
supervision's COCO reader and metrics do: ``iscrowd``, ``area``, and segmentations as they are in the file under
``coco_raw_segmentation``, which supervision writes to COCO files without rasterizing them.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import mask as rle
from jaxtyping import Bool
from numpy import ndarray

from libradet.data.formats import coco
from libradet.data.formats.writing import SplitToWrite
from libradet.data.read import compare_splits
from libradet.data.records import Dataset, ImageRecord, RawAnnotations
from libradet.data.segmentations import rle_to_json, segmentation_to_json
from libradet.data.validation.report import Report, merge
from libradet.data.validation.split import validate_split
from libradet.errors import UserError
from libradet.utils.arguments import check_arguments
from libradet.utils.atomic_io import atomic_folder
from libradet.utils.quiet_supervision import supervision as sv
from libradet.utils.text import counted, summarize_list

SEGMENTATION = "coco_raw_segmentation"


@check_arguments
def from_supervision(
    dataset: sv.DetectionDataset, split: str = "all", *, training: bool = True, skip_broken: bool = False
) -> tuple[Dataset, Report]:
    """Convert a dataset of supervision, with the validation that files of every format get.

    Label i is supervision's class i, and i + 1 in result files, as in those that supervision writes. Segmentations are
    read from ``data``; otherwise masks are converted to RLE. Confidences, tracker ids and other ``data`` are ignored.

    Args:
        dataset: a dataset whose images are files.
        split: name of the split.
        training: whether a dataset without any box is an error instead of a warning.
        skip_broken: leave out missing or damaged images instead of refusing the dataset.

    Returns:
        The dataset, and the report of its validation.

    Raises:
        UserError: the dataset cannot be trained on or evaluated with, for instance because boxes have no class.
    """
    return _check(dataset, split, training=training, skip_broken=skip_broken)


@check_arguments
def to_supervision(dataset: Dataset, *, masks: bool = False) -> tuple[sv.DetectionDataset, list[str]]:
    """Convert a dataset to supervision.

    Args:
        masks: rasterize masks, which supervision's other functions need: a byte per pixel of the image for each
            object. Otherwise polygons and RLEs are stored as they are, in ``data``.

    Returns:
        supervision's dataset, and a line for each kind of information that is lost or changed.

    Raises:
        UserError: an image is listed twice; supervision identifies images by their paths.
    """
    counts = Counter(str(image.path) for image in dataset.images)
    if duplicates := [path for path, count in counts.items() if count > 1]:
        names = summarize_list(duplicates, 3)
        raise UserError(
            f"{counted(len(duplicates), 'image is', 'images are')} listed twice; supervision identifies "
            f"images by path: {names}."
        )
    detections_by_path = {str(image.path): _detections(image, masks) for image in dataset.images}
    converted = sv.DetectionDataset(list(dataset.class_names), list(detections_by_path), detections_by_path)
    return converted, list(_lost_information(dataset, masks))


@check_arguments
def write_folder(folder: str | Path, **splits: sv.DetectionDataset) -> Report:
    """Write splits as a folder that ``train``, ``evaluate`` and the command line accept; images are not copied.

    ``write_folder("cells", train=a, val=b)`` writes ``cells/train.json`` and ``cells/val.json``, COCO annotations with
    absolute paths. For a folder that can be moved, pass the result to ``libradet data convert``.

    Returns:
        The report of the validation.

    Raises:
        UserError: the folder exists already, or the data cannot be trained on. Nothing is written then.
    """
    if not splits:
        raise UserError("there is no split to write: pass train=DATASET, val=DATASET")
    read = {name: _check(d, name, training=name == "train", records=True) for name, d in splits.items()}
    report = merge({name: part for name, (_, part) in read.items()})
    compare_splits([dataset for dataset, _ in read.values()], report)
    if report.errors:
        raise UserError("\n".join(report.errors))
    parts = []
    for name, (dataset, _) in read.items():
        names = [image.path.as_posix() for image in dataset.images]
        parts.append(SplitToWrite(name, dataset, names, [{} for _ in dataset.class_names], {}))
    with atomic_folder(folder) as partial:
        coco.write(partial, parts)
    return report


def _check(dataset: sv.DetectionDataset, split: str, **options: bool) -> tuple[Dataset, Report]:
    paths = [Path(path).absolute() for path in dataset.image_paths]
    folders = list(dict.fromkeys(path.parent for path in paths)) or [Path.cwd()]
    images, annotations = [], []
    for number, (key, path) in enumerate(zip(dataset.image_paths, paths, strict=True), start=1):
        images.append({"id": number, "file_name": str(path)})
        annotations += _annotations(dataset.annotations[key], number, len(annotations) + 1, path)
    categories = [{"id": i, "name": name} for i, name in enumerate(dataset.classes, start=1)]
    raw = RawAnnotations(folders[0], split, folders[0], folders, images, annotations, categories)
    validated, report = validate_split(raw, **options)
    if report.errors:
        raise UserError("\n".join(report.errors))
    crowd = sum(int(image.crowd.sum()) for image in validated.images)
    if crowd:
        report.notes.append(f"{crowd} crowd regions ({_crowd_examples(validated)}): ignored in training and evaluation")
    return validated, report


def _annotations(detections: sv.Detections, image_id: int, first: int, path: Path) -> Iterator[dict[str, Any]]:
    """Yield COCO annotations of the objects of an image."""
    if len(detections) and detections.class_id is None:
        raise UserError(f"{path}: its boxes have no class_id; every box needs one.")
    boxes = np.asarray(detections.xyxy, np.float64)
    for i, (box, label) in enumerate(
        zip(boxes, () if detections.class_id is None else detections.class_id, strict=True)
    ):
        record: dict[str, Any] = {"id": first + i, "image_id": image_id, "category_id": int(label) + 1}
        record["bbox"] = [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]
        for key in ("iscrowd", "area"):
            if key in detections.data:
                record[key] = np.asarray(detections.data[key])[i].item()
        yield record | {"segmentation": _segmentation(detections, i)}


def _segmentation(detections: sv.Detections, i: int) -> Any:
    raw = detections.data[SEGMENTATION][i] if SEGMENTATION in detections.data else None
    if raw is not None and len(raw):
        # A single polygon may be stored without a list around it.
        return [raw] if isinstance(raw, list) and np.isscalar(raw[0]) else raw
    if detections.mask is None:
        return None
    mask = np.asarray(detections.mask[i], bool)
    return rle_to_json(rle.encode(np.asfortranarray(mask))) if mask.any() else None


def _detections(image: ImageRecord, masks: bool) -> sv.Detections:
    data: dict[str, Any] = {"iscrowd": image.crowd.astype(int), "area": image.area.copy()}
    own = image.segmentations
    drawn = None
    if own is not None and masks:
        drawn = _rasterize(image, own)
    elif own is not None:
        data[SEGMENTATION] = np.empty(len(own), object)
        for i, one in enumerate(own):
            data[SEGMENTATION][i] = [] if one is None else segmentation_to_json(one)
    return sv.Detections(image.boxes.copy(), drawn, class_id=image.labels.astype(int), data=data)


def _rasterize(image: ImageRecord, segmentations: Sequence[Any]) -> Bool[ndarray, "G H W"]:
    """Return the masks of the objects at the size of the image; empty for objects without segmentation."""
    drawn = np.zeros((len(segmentations), image.height, image.width), bool)
    for mask, one in zip(drawn, segmentations, strict=True):
        if isinstance(one, list):
            one = rle.merge(rle.frPyObjects(segmentation_to_json(one), image.height, image.width))
        mask[:] = 0 if one is None else rle.decode(one)
    return drawn


def _lost_information(dataset: Dataset, masks: bool) -> Iterator[str]:
    crowd = sum(int(image.crowd.sum()) for image in dataset.images)
    if crowd:
        yield (
            f"{crowd} crowd regions ({_crowd_examples(dataset)}) become boxes with data['iscrowd'] = 1, which only "
            "supervision's metrics and COCO files distinguish from objects"
        )
    if dataset.category_ids != list(range(1, len(dataset.category_ids) + 1)):
        ids = summarize_list(dataset.category_ids)
        yield f"category ids ({ids}) become class numbers from 0, and from 1 in COCO files"
    for kind, ids in (
        ("images", [image.id for image in dataset.images]),
        ("objects", [i for image in dataset.images for i in image.annotation_ids.tolist()]),
    ):
        if ids != list(range(1, len(ids) + 1)):
            yield f"ids of {kind} are lost: supervision has none"
    rotated = [image.path.name for image in dataset.images if not image.apply_exif]
    if rotated:
        names = summarize_list(rotated)
        yield (
            f"{counted(len(rotated), 'image has', 'images have')} boxes on pixels before EXIF rotation "
            f"({names}); supervision rotates them"
        )
    polygons = sum(isinstance(s, list) for p in dataset.images for s in p.segmentations or ())
    if masks and polygons:
        yield f"{polygons} polygons are rasterized"


def _crowd_examples(dataset: Dataset) -> str:
    return summarize_list(
        [f"{p.path.name}: {p.annotation_ids[i]}" for p in dataset.images for i in np.flatnonzero(p.crowd)], 3
    )
