"""Reading datasets: any layout in, checked images and a report out."""

from pathlib import Path
from typing import Any

import numpy as np

from libradet.data.checks.report import Report, few, merge
from libradet.data.checks.split import check as check_split
from libradet.data.layouts.formats import choose_split, find_layout
from libradet.data.records import Dataset, ImageRecord
from libradet.data.segmentations import plain_segmentation
from libradet.errors import UserError

__all__ = ["Dataset", "ImageRecord", "Report", "check", "read", "splits", "to_coco"]


def splits(data: Path | str) -> list[str]:
    """Names of the splits in a folder; ``["all"]`` is a single one that serves for any.

    Raises:
        UserError: nothing there, or nothing recognized.
    """
    return list(find_layout(Path(data)))


def read(
    data: Path | str,
    split: str | None = None,
    *,
    strict: bool = True,
    training: bool = True,
    skip_broken: bool = False,
    masks: bool = True,
    decode: bool = False,
) -> tuple[Dataset, Report]:
    """One split of a dataset in any layout that is recognized.

    Args:
        data: folder, or a JSON file with COCO records.
        split: "train", "val", ... or the layout's own name ("valid", "train2017"); None for the training
            split, or the first there is.
        strict: raise what the report calls errors.
        training: a split without any box is an error; False makes it a warning (evaluation).
        skip_broken: leave out images that are missing or damaged, instead of refusing the split.
        masks: keep segmentations (memory, on large sets).
        decode: decode every image as a whole, to find damage that headers do not show.

    Raises:
        UserError: the files cannot be read as a dataset; with ``strict``, also if training (or
            evaluation) is not possible with it.
    """
    data = Path(data)
    layout = find_layout(data)
    raw = layout[choose_split(layout, split, data)]()
    dataset, report = check_split(raw, training=training, skip_broken=skip_broken, masks=masks, decode=decode)
    if strict and report.errors:
        raise UserError("\n".join(report.errors))
    return dataset, report


def check(data: Path | str, split: str | None = None, *, skip_broken: bool = False, decode: bool = False) -> Report:
    """What there is to say about a dataset: one split, or all of them and how they fit together.

    Never raises for what it can put into the report; ``report.errors`` says whether training could start.
    """
    data = Path(data)
    try:
        names = [split] if split else splits(data)
        found = {
            name: read(
                data, name, strict=False, training=name == names[0], skip_broken=skip_broken, masks=True, decode=decode
            )
            for name in names
        }
    except UserError as error:
        return Report(errors=[str(error)])
    report = merge({name: part for name, (_, part) in found.items()})
    compare_splits([dataset for dataset, _ in found.values()], report)
    return report


def compare_splits(datasets: list[Dataset], report: Report) -> None:
    """Add to a report how the splits of a dataset fit together."""
    first, *others = datasets
    for other in others:
        names = dict(zip(first.category_ids, first.class_names, strict=True))
        clashing = [
            f"{i} is {names[i]!r} in {first.split}, {name!r} in {other.split}"
            for i, name in zip(other.category_ids, other.class_names, strict=True)
            if names.get(i, name) != name
        ]
        if clashing:
            report.errors.append(f"splits disagree on their categories: {few(clashing, 3)}.")
        new = [name for name in other.class_names if name not in first.class_names]
        if new and not clashing:
            report.warnings.append(f"{other.split} has classes that {first.split} does not list ({few(new)}).")
        shared = {p.path for p in first.images} & {p.path for p in other.images}
        if shared:
            names_shared = few(sorted(path.name for path in shared))
            report.warnings.append(f"{len(shared)} images are in {first.split} and in {other.split} ({names_shared}).")


def to_coco(dataset: Dataset) -> dict[str, Any]:
    """The split as a COCO dataset, with its own image, annotation and category ids; nothing optional is missing."""
    annotations: list[dict[str, Any]] = []
    for p in dataset.images:
        xywh = p.boxes.astype(np.float64)
        xywh[:, 2:] -= xywh[:, :2]
        for i in range(len(p.labels)):
            record = {
                "id": int(p.annotation_ids[i]),
                "image_id": p.id,
                "category_id": dataset.category_ids[p.labels[i]],
                "bbox": xywh[i].tolist(),
                "area": float(p.area[i]),
                "iscrowd": int(p.crowd[i]),
            }
            if p.segmentations and p.segmentations[i] is not None:
                record["segmentation"] = plain_segmentation(p.segmentations[i])
            annotations.append(record)
    images = [{"id": p.id, "file_name": p.path.name, "width": p.width, "height": p.height} for p in dataset.images]
    classes = zip(dataset.category_ids, dataset.class_names, strict=True)
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in classes],
    }
