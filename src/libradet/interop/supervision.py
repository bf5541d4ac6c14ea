"""Datasets of `supervision` in and out: ``supervision.DetectionDataset`` holds paths, boxes and class names.

Boxes and labels are the same on both sides. What COCO knows beyond them goes where supervision's own COCO reader and
metrics have it, in the ``data`` of the detections: ``iscrowd``, ``area``, and masks as they are in the file under
``coco_raw_segmentation``, which supervision writes into COCO files again without drawing them.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import mask as rle
from jaxtyping import Bool
from numpy import ndarray

from libradet.data.checks.report import Report, few, merge
from libradet.data.checks.split import check as check_split
from libradet.data.layouts import write_coco
from libradet.data.layouts.parts import Part
from libradet.data.read import compare_splits
from libradet.data.records import Dataset, ImageRecord, Raw
from libradet.data.segmentations import plain_rle, plain_segmentation
from libradet.errors import UserError
from libradet.utils.atomic_io import atomic_folder
from libradet.utils.warnings_filter import supervision as sv

SEGMENTATION = "coco_raw_segmentation"


def from_supervision(
    dataset: sv.DetectionDataset, split: str = "all", *, training: bool = True, skip_broken: bool = False
) -> tuple[Dataset, Report]:
    """Images and boxes, through the checks that files of every layout go through.

    Label i is supervision's class i, and i + 1 in result files, as in those that supervision writes. Masks are taken
    from ``data``, or else drawn ones as run lengths. Confidences, tracker ids and other ``data`` are left out.

    Args:
        dataset: its images are files.
        split: what to call it.
        training: a dataset without any box is an error; False makes it a warning.
        skip_broken: leave out images that are missing or damaged, instead of refusing the dataset.

    Raises:
        UserError: it cannot be trained on (or measured with); boxes without a class among the reasons.
    """
    return _check(dataset, split, training=training, skip_broken=skip_broken)


def to_supervision(dataset: Dataset, *, masks: bool = False) -> tuple[sv.DetectionDataset, list[str]]:
    """The dataset as supervision has it, and a line for everything that is not the same there.

    Args:
        masks: draw masks of whole images, which supervision's other functions want: a byte for each pixel of
            each object. Without, polygons and run lengths stay as they are, in ``data``.

    Raises:
        UserError: an image is listed twice, which supervision, which goes by paths, cannot hold.
    """
    counts = Counter(str(image.path) for image in dataset.images)
    if doubled := [path for path, count in counts.items() if count > 1]:
        raise UserError(f"{len(doubled)} images are listed twice, supervision knows each once: {few(doubled, 3)}.")
    found = {str(image.path): _detections(image, masks) for image in dataset.images}
    return sv.DetectionDataset(list(dataset.class_names), list(found), found), list(_losses(dataset, masks))


def write_folder(folder: str | Path, **splits: sv.DetectionDataset) -> Report:
    """Write splits as a folder that ``train``, ``evaluate`` and the command line take; images stay where they are.

    ``write_folder("cells", train=a, val=b)`` writes ``cells/train.json`` and ``cells/val.json``, COCO records with
    absolute paths. For a folder that can be moved, give the result to ``libradet data convert``.

    Returns:
        what the checks found.

    Raises:
        UserError: the folder is there already, or the data cannot be trained on; then nothing is written.
    """
    if not splits:
        raise UserError("no split given: say train=DATASET, val=DATASET")
    read = {name: _check(d, name, training=name == "train", records=True) for name, d in splits.items()}
    report = merge({name: part for name, (_, part) in read.items()})
    compare_splits([dataset for dataset, _ in read.values()], report)
    if report.errors:
        raise UserError("\n".join(report.errors))
    parts = []
    for name, (dataset, _) in read.items():
        names = [image.path.as_posix() for image in dataset.images]
        parts.append(Part(name, dataset, names, [{} for _ in dataset.class_names], {}))
    with atomic_folder(folder) as partial:
        write_coco.write(partial, parts)
    return report


def _check(dataset: sv.DetectionDataset, split: str, **options: bool) -> tuple[Dataset, Report]:
    paths = [Path(path).absolute() for path in dataset.image_paths]
    folders = list(dict.fromkeys(path.parent for path in paths)) or [Path.cwd()]
    images, annotations = [], []
    for number, (key, path) in enumerate(zip(dataset.image_paths, paths, strict=True), start=1):
        images.append({"id": number, "file_name": str(path)})
        annotations += _records(dataset.annotations[key], number, len(annotations) + 1, path)
    categories = [{"id": i, "name": name} for i, name in enumerate(dataset.classes, start=1)]
    raw = Raw(folders[0], split, folders[0], folders, images, annotations, categories)
    found, report = check_split(raw, **options)
    if report.errors:
        raise UserError("\n".join(report.errors))
    crowd = sum(int(image.crowd.sum()) for image in found.images)
    if crowd:
        report.notes.append(f"{crowd} crowd regions ({_examples(found)}): neither trained on nor judged")
    return found, report


def _records(found: sv.Detections, image: int, first: int, path: Path) -> Iterator[dict[str, Any]]:
    """COCO records of one image's objects."""
    if len(found) and found.class_id is None:
        raise UserError(f"{path}: its boxes have no class_id; every box needs one.")
    boxes = np.asarray(found.xyxy, np.float64)
    for i, (box, label) in enumerate(zip(boxes, () if found.class_id is None else found.class_id, strict=True)):
        record: dict[str, Any] = {"id": first + i, "image_id": image, "category_id": int(label) + 1}
        record["bbox"] = [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]
        for key in ("iscrowd", "area"):
            if key in found.data:
                record[key] = np.asarray(found.data[key])[i].item()
        yield record | {"segmentation": _segmentation(found, i)}


def _segmentation(found: sv.Detections, i: int) -> Any:
    kept = found.data[SEGMENTATION][i] if SEGMENTATION in found.data else None
    if kept is not None and len(kept):
        # One polygon may stand alone there.
        return [kept] if isinstance(kept, list) and np.isscalar(kept[0]) else kept
    if found.mask is None:
        return None
    mask = np.asarray(found.mask[i], bool)
    return plain_rle(rle.encode(np.asfortranarray(mask))) if mask.any() else None


def _detections(image: ImageRecord, masks: bool) -> sv.Detections:
    data: dict[str, Any] = {"iscrowd": image.crowd.astype(int), "area": image.area.copy()}
    own = image.segmentations
    drawn = None
    if own is not None and masks:
        drawn = _draw(image, own)
    elif own is not None:
        data[SEGMENTATION] = np.empty(len(own), object)
        for i, one in enumerate(own):
            data[SEGMENTATION][i] = [] if one is None else plain_segmentation(one)
    return sv.Detections(image.boxes.copy(), drawn, class_id=image.labels.astype(int), data=data)


def _draw(image: ImageRecord, segmentations: Sequence[Any]) -> Bool[ndarray, "G H W"]:
    """Masks of the objects at the size of the image; empty where an object has none."""
    drawn = np.zeros((len(segmentations), image.height, image.width), bool)
    for mask, one in zip(drawn, segmentations, strict=True):
        if isinstance(one, list):
            one = rle.merge(rle.frPyObjects(plain_segmentation(one), image.height, image.width))
        mask[:] = 0 if one is None else rle.decode(one)
    return drawn


def _losses(dataset: Dataset, masks: bool) -> Iterator[str]:
    crowd = sum(int(image.crowd.sum()) for image in dataset.images)
    if crowd:
        yield (
            f"{crowd} crowd regions ({_examples(dataset)}) are boxes with data['iscrowd'] = 1: supervision's metrics "
            "and COCO files know what that means, what else it draws and writes takes them for objects"
        )
    if dataset.category_ids != list(range(1, len(dataset.category_ids) + 1)):
        yield f"ids of categories ({few(dataset.category_ids)}): supervision counts from 0, and from 1 in COCO files"
    for what, ids in (
        ("images", [image.id for image in dataset.images]),
        ("objects", [int(i) for image in dataset.images for i in image.annotation_ids]),
    ):
        if ids != list(range(1, len(ids) + 1)):
            yield f"ids of {what}: supervision has none"
    unturned = [image.path.name for image in dataset.images if not image.upright]
    if unturned:
        yield f"{len(unturned)} images have boxes on their unrotated pixels ({few(unturned)}): supervision turns them"
    polygons = sum(isinstance(s, list) for p in dataset.images for s in p.segmentations or ())
    if masks and polygons:
        yield f"{polygons} polygons are drawn, as pixels"


def _examples(dataset: Dataset) -> str:
    return few([f"{p.path.name}: {p.annotation_ids[i]}" for p in dataset.images for i in np.flatnonzero(p.crowd)], 3)
