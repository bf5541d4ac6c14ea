"""A dataset in one layout, written in another."""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from libradet.data.checks.report import Report, few, merge
from libradet.data.checks.split import check as check_split
from libradet.data.layouts import write_coco, write_voc, write_yolo
from libradet.data.layouts.formats import choose_split, find_layout, standard_split
from libradet.data.layouts.losses import losses
from libradet.data.layouts.naming import Names, own_name, stem
from libradet.data.layouts.parts import Part
from libradet.data.read import compare_splits
from libradet.data.records import CLASS_FIELDS, Dataset, Raw, other_fields, plain_id
from libradet.errors import UserError
from libradet.utils.atomic_io import atomic_folder, require_replaceable
from libradet.utils.progress import progress_bar

Target = Literal["coco", "yolo", "voc"]

SHOWN_FROM = 100
"""Images from which on it is worth a bar to copy them all."""

_PLACES = {"coco": "images", "yolo": "images/{split}", "voc": "JPEGImages"}
_NAMES = {"coco": write_coco.names, "yolo": write_yolo.names, "voc": write_voc.names}


@dataclass(frozen=True)
class Converted:
    """What came of it.

    Attributes:
        report: on what was read.
        losses: what the new layout has no place for, and what has another name there.
        splits: images by split, under its new name.
    """

    report: Report
    losses: list[str]
    splits: dict[str, int]


def convert(
    source: Path | str,
    target: Path | str,
    to: Target,
    *,
    splits: Sequence[str] | None = None,
    images: Literal["copy", "link"] = "copy",
    masks: bool = False,
    skip_broken: bool = False,
) -> Converted:
    """Write a dataset of any layout that is recognized in another one, into a new folder.

    Args:
        splits: only these.
        images: "link" saves the space: a hard link, or a symbolic one to another disk.
        masks: YOLO: polygons in place of boxes. COCO keeps masks anyway, Pascal VOC has none.
        skip_broken: leave out images that are missing or damaged, instead of refusing the dataset.

    Raises:
        UserError: the target is there already, or the dataset has errors; then nothing is written.
    """
    source, target = Path(source), Path(target)
    if masks and to != "yolo":
        raise UserError(f"masks are an option of YOLO only: {'COCO keeps them' if to == 'coco' else 'VOC has none'}.")
    require_replaceable(target)
    found, report = _read(source, splits, skip_broken)
    parts = _parts(found, to)
    lost = losses(parts, to, masks) + _renamed(parts, found, to)
    with atomic_folder(target) as folder:
        if to == "yolo":
            write_yolo.write(folder, parts, masks)
        else:
            (write_coco if to == "coco" else write_voc).write(folder, parts)
        _bring_images(folder, parts, to, images)
    return Converted(report, lost, {part.split: len(part.dataset) for part in parts})


def _read(source: Path, splits: Sequence[str] | None, skip_broken: bool) -> tuple[list[tuple[Raw, Dataset]], Report]:
    """All splits asked for, checked as they are before training."""
    layout = find_layout(source)
    names = list(dict.fromkeys(choose_split(layout, split, source) for split in splits)) if splits else list(layout)
    found, reports = [], {}
    for name in names:
        raw = layout[name]()
        dataset, reports[name] = check_split(raw, training=name == names[0], skip_broken=skip_broken, records=True)
        found.append((raw, dataset))
    report = merge(reports)
    compare_splits([dataset for _, dataset in found], report)
    if report.errors:
        raise UserError("\n".join(report.errors))
    return found, report


def _parts(found: list[tuple[Raw, Dataset]], to: Target) -> list[Part]:
    known = Names({"coco": str, "yolo": stem, "voc": stem}[to])
    parts = []
    for split, (raw, dataset) in zip(_split_names([d.split for _, d in found], to), found, strict=True):
        records = {plain_id(c["id"]): c for c in reversed(raw.categories)}
        categories = [other_fields(records.get(i, {}), CLASS_FIELDS) for i in dataset.category_ids]
        parts.append(Part(split, dataset, _NAMES[to](split, dataset, raw.folders, known), categories, raw.rest))
    return parts


def _split_names(names: list[str], to: Target) -> list[str]:
    plain = [standard_split(name) for name in names]
    if len(set(plain)) < len(plain):
        plain = names
    if to == "voc":
        return [name.replace("_", "-") for name in plain]  # an underscore means a list for one class
    if to == "yolo":
        plain = ["train" if plain == ["all"] else name for name in plain]
        if unknown := [name for name in plain if name not in write_coco.USUAL]:
            raise UserError(f"YOLO has train, val and test, not {few(unknown)}: name those to convert with --split.")
    return plain


def _renamed(parts: list[Part], found: list[tuple[Raw, Dataset]], to: Target) -> list[str]:
    texts = [
        f"split {dataset.split} is {part.split} now"
        for part, (_, dataset) in zip(parts, found, strict=True)
        if part.split != dataset.split
    ]
    changed = []
    for part, (raw, dataset) in zip(parts, found, strict=True):
        for image, name in zip(dataset.images, part.names, strict=True):
            own = own_name(image.path, raw.folders, dataset.split)
            if own != name:
                changed.append(f"{own} is {name}")
    if changed:
        texts.append(f"{len(changed)} images have another name ({few(changed, 3)})")
    return texts


def _bring_images(folder: Path, parts: list[Part], to: Target, how: Literal["copy", "link"]) -> None:
    places = {}
    for part in parts:
        home = folder / _PLACES[to].format(split=part.split)
        places |= {home / name: p.path for name, p in zip(part.names, part.dataset.images, strict=True)}
    shown = len(places) >= SHOWN_FROM and sys.stderr.isatty()
    with progress_bar(shown, transient=True) as bar:
        for place, path in bar.track(places.items(), total=len(places), description="images"):
            place.parent.mkdir(parents=True, exist_ok=True)
            if how == "copy":
                shutil.copyfile(path, place)
            else:
                _link(path.resolve(), place)


def _link(path: Path, place: Path) -> None:
    try:
        os.link(path, place)
    except OSError:
        place.symlink_to(path)
