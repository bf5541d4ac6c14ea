"""Data sets of `supervision` in and out: ``supervision.DetectionDataset`` holds paths, boxes and class names.

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
from libradet.data.records import Dataset, Picture, Raw
from libradet.data.segmentations import plain_rle, plain_segmentation
from libradet.errors import UserError
from libradet.files import replacing_folder
from libradet.quiet import supervision as sv

SEGMENTATION = "coco_raw_segmentation"


def from_supervision(
    dataset: sv.DetectionDataset, split: str = "all", *, training: bool = True, skip_broken: bool = False
) -> tuple[Dataset, Report]:
    """Pictures and boxes, through the checks that files of every layout go through.

    Label i is supervision's class i, and i + 1 in result files, as in those that supervision writes. Masks are taken
    from ``data``, or else drawn ones as run lengths. Confidences, tracker ids and other ``data`` are left out.

    Args:
        dataset: its pictures are files.
        split: what to call it.
        training: a data set without any box is an error; False makes it a warning.
        skip_broken: leave out pictures that are missing or damaged, instead of refusing the data set.

    Raises:
        UserError: it cannot be trained on (or measured with); boxes without a class among the reasons.
    """
    return _check(dataset, split, training=training, skip_broken=skip_broken)


def to_supervision(dataset: Dataset, *, masks: bool = False) -> tuple[sv.DetectionDataset, list[str]]:
    """The data set as supervision has it, and a line for everything that is not the same there.

    Args:
        masks: draw masks of whole pictures, which supervision's other functions want: a byte for each pixel of
            each object. Without, polygons and run lengths stay as they are, in ``data``.

    Raises:
        UserError: a picture is listed twice, which supervision, which goes by paths, cannot hold.
    """
    counts = Counter(str(picture.path) for picture in dataset.pictures)
    if doubled := [path for path, count in counts.items() if count > 1]:
        raise UserError(f"{len(doubled)} pictures are listed twice, supervision knows each once: {few(doubled, 3)}.")
    found = {str(picture.path): _detections(picture, masks) for picture in dataset.pictures}
    return sv.DetectionDataset(list(dataset.class_names), list(found), found), list(_losses(dataset, masks))


def write_folder(folder: str | Path, **splits: sv.DetectionDataset) -> Report:
    """Write splits as a folder that ``train``, ``evaluate`` and the command line take; pictures stay where they are.

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
        names = [picture.path.as_posix() for picture in dataset.pictures]
        parts.append(Part(name, dataset, names, [{} for _ in dataset.class_names], {}))
    with replacing_folder(folder) as partial:
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
    crowd = sum(int(picture.crowd.sum()) for picture in found.pictures)
    if crowd:
        report.notes.append(f"{crowd} crowd regions ({_examples(found)}): neither trained on nor judged")
    return found, report


def _records(found: sv.Detections, picture: int, first: int, path: Path) -> Iterator[dict[str, Any]]:
    """COCO records of one picture's objects."""
    if len(found) and found.class_id is None:
        raise UserError(f"{path}: its boxes have no class_id; every box needs one.")
    boxes = np.asarray(found.xyxy, np.float64)
    for i, (box, label) in enumerate(zip(boxes, () if found.class_id is None else found.class_id, strict=True)):
        record: dict[str, Any] = {"id": first + i, "image_id": picture, "category_id": int(label) + 1}
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


def _detections(picture: Picture, masks: bool) -> sv.Detections:
    data: dict[str, Any] = {"iscrowd": picture.crowd.astype(int), "area": picture.area.copy()}
    own = picture.segmentations
    drawn = None
    if own is not None and masks:
        drawn = _draw(picture, own)
    elif own is not None:
        data[SEGMENTATION] = np.empty(len(own), object)
        for i, one in enumerate(own):
            data[SEGMENTATION][i] = [] if one is None else plain_segmentation(one)
    return sv.Detections(picture.boxes.copy(), drawn, class_id=picture.labels.astype(int), data=data)


def _draw(picture: Picture, segmentations: Sequence[Any]) -> Bool[ndarray, "G H W"]:
    """Masks of the objects at the size of the picture; empty where an object has none."""
    drawn = np.zeros((len(segmentations), picture.height, picture.width), bool)
    for mask, one in zip(drawn, segmentations, strict=True):
        if isinstance(one, list):
            one = rle.merge(rle.frPyObjects(plain_segmentation(one), picture.height, picture.width))
        mask[:] = 0 if one is None else rle.decode(one)
    return drawn


def _losses(dataset: Dataset, masks: bool) -> Iterator[str]:
    crowd = sum(int(picture.crowd.sum()) for picture in dataset.pictures)
    if crowd:
        yield (
            f"{crowd} crowd regions ({_examples(dataset)}) are boxes with data['iscrowd'] = 1: supervision's metrics "
            "and COCO files know what that means, what else it draws and writes takes them for objects"
        )
    if dataset.category_ids != list(range(1, len(dataset.category_ids) + 1)):
        yield f"ids of categories ({few(dataset.category_ids)}): supervision counts from 0, and from 1 in COCO files"
    for what, ids in (
        ("pictures", [picture.id for picture in dataset.pictures]),
        ("objects", [int(i) for picture in dataset.pictures for i in picture.annotation_ids]),
    ):
        if ids != list(range(1, len(ids) + 1)):
            yield f"ids of {what}: supervision has none"
    unturned = [picture.path.name for picture in dataset.pictures if not picture.upright]
    if unturned:
        yield f"{len(unturned)} pictures have boxes on their unrotated pixels ({few(unturned)}): supervision turns them"
    polygons = sum(isinstance(s, list) for p in dataset.pictures for s in p.segmentations or ())
    if masks and polygons:
        yield f"{polygons} polygons are drawn, as pixels"


def _examples(dataset: Dataset) -> str:
    return few([f"{p.path.name}: {p.annotation_ids[i]}" for p in dataset.pictures for i in np.flatnonzero(p.crowd)], 3)
