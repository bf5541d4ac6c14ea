"""Conversion of datasets between formats."""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from libradet.data.formats import coco, voc, yolo
from libradet.data.formats.detect import choose_split, list_splits
from libradet.data.formats.filenames import UniqueNames, own_name
from libradet.data.formats.reading import STANDARD_SPLITS, standard_split
from libradet.data.formats.unsupported import list_unsupported
from libradet.data.formats.writing import SplitToWrite, Writer
from libradet.data.read import compare_splits, dataset_folder
from libradet.data.records import CLASS_FIELDS, Dataset, RawAnnotations, extra_fields, normalize_id
from libradet.data.validation.report import Report, merge
from libradet.data.validation.split import validate_split
from libradet.errors import UserError
from libradet.utils.arguments import check_arguments
from libradet.utils.atomic_io import atomic_folder, require_replaceable
from libradet.utils.progress import progress_bar
from libradet.utils.text import counted, summarize_list

Format = Literal["coco", "yolo", "voc"]
ImageMode = Literal["copy", "link"]

PROGRESS_MIN_IMAGES = 100
"""Number of images from which on copying shows a progress bar."""


@dataclass(frozen=True)
class ConversionResult:
    """Result of a conversion.

    Attributes:
        report: of the validation of the source.
        unsupported: information that the new format cannot hold, and renamed splits and images.
        splits: number of images by split, under its new name.
    """

    report: Report
    unsupported: list[str]
    splits: dict[str, int]


@check_arguments
def convert(
    source: Path | str,
    target: Path | str,
    to: Format,
    *,
    splits: Sequence[str] | None = None,
    image_mode: ImageMode = "copy",
    masks: bool = False,
    skip_broken: bool = False,
    voc_one_based: bool = False,
) -> ConversionResult:
    """Convert a dataset in any supported format to another format, in a new folder.

    Args:
        source: folder, or JSON file in COCO format.
        target: folder to write; must not exist or be empty.
        to: format to write.
        splits: only these.
        image_mode: "copy", or "link" to save disk space: hard links, or symbolic links across disks.
        masks: YOLO: polygons in place of boxes. COCO always keeps masks, Pascal VOC has none.
        skip_broken: skip images that are missing or damaged, instead of refusing the dataset.
        voc_one_based: the source is in Pascal VOC format, with corners that count from 1.

    Raises:
        UserError: an argument is invalid, the target exists, or the dataset has errors; then nothing is written.
    """
    source, target = dataset_folder(source), Path(target)
    if masks and to != "yolo":
        reason = "COCO keeps them anyway" if to == "coco" else "Pascal VOC has none"
        raise UserError(f"masks are an option of YOLO only: {reason}. Remove the option.")
    require_replaceable(target)
    originals, report = _read(source, splits, skip_broken, voc_one_based)
    writer = _writer(to)
    splits_to_write = _prepare_splits(originals, to, writer)
    unsupported = list_unsupported(splits_to_write, to, masks) + _list_renamed(splits_to_write, originals)
    with atomic_folder(target) as folder:
        writer.write(folder, splits_to_write, masks)
        _place_images(folder, splits_to_write, writer.image_folder, image_mode)
    return ConversionResult(report, unsupported, {split.split: len(split.dataset) for split in splits_to_write})


def _writer(to: Format) -> Writer:
    if to == "coco":
        return coco.WRITER
    return yolo.WRITER if to == "yolo" else voc.WRITER


def _read(
    source: Path, requested: Sequence[str] | None, skip_broken: bool, voc_one_based: bool
) -> tuple[list[tuple[RawAnnotations, Dataset]], Report]:
    """Read the requested splits, validated as before training."""
    splits = list_splits(source)
    names = list(splits)
    if requested:
        names = list(dict.fromkeys(choose_split(splits, name, source) for name in requested))
    originals, reports = [], {}
    for name in names:
        raw = splits[name]()
        if voc_one_based:
            voc.count_from_zero(raw)
        dataset, reports[name] = validate_split(raw, training=name == names[0], skip_broken=skip_broken, records=True)
        originals.append((raw, dataset))
    report = merge(reports)
    compare_splits([dataset for _, dataset in originals], report)
    if report.errors:
        raise UserError("\n".join(report.errors))
    return originals, report


def _prepare_splits(originals: list[tuple[RawAnnotations, Dataset]], to: Format, writer: Writer) -> list[SplitToWrite]:
    names = UniqueNames(writer.unique_part)
    new_splits = _new_split_names([dataset.split for _, dataset in originals], to)
    prepared = []
    for split, (raw, dataset) in zip(new_splits, originals, strict=True):
        records = {normalize_id(c["id"]): c for c in reversed(raw.categories)}
        categories = [extra_fields(records.get(normalize_id(i), {}), CLASS_FIELDS) for i in dataset.category_ids]
        image_names = writer.name_images(split, dataset, raw.image_folders, names)
        prepared.append(SplitToWrite(split, dataset, image_names, categories, raw.extra))
    return prepared


def _new_split_names(names: list[str], to: Format) -> list[str]:
    new = [standard_split(name) for name in names]
    if len(set(new)) < len(new):
        new = names
    if to == "voc":
        return [name.replace("_", "-") for name in new]  # an underscore means a list for one class
    if to == "yolo":
        new = ["train" if new == ["all"] else name for name in new]
        if unknown := [name for name in new if name not in STANDARD_SPLITS]:
            raise UserError(
                f"YOLO has train, val and test, not {summarize_list(unknown)}: name the splits to convert with --split."
            )
    return new


def _list_renamed(splits: list[SplitToWrite], originals: list[tuple[RawAnnotations, Dataset]]) -> list[str]:
    texts, renamed = [], []
    for split, (raw, dataset) in zip(splits, originals, strict=True):
        if split.split != dataset.split:
            texts.append(f"split {dataset.split} is renamed to {split.split}")
        for image, name in zip(dataset.images, split.names, strict=True):
            original = own_name(image.path, raw.image_folders, dataset.split)
            if original != name:
                renamed.append(f"{original} to {name}")
    if renamed:
        texts.append(f"{counted(len(renamed), 'image is', 'images are')} renamed ({summarize_list(renamed, 3)})")
    return texts


def _place_images(folder: Path, splits: list[SplitToWrite], image_folder: str, mode: ImageMode) -> None:
    sources = {}
    for split in splits:
        parent = folder / image_folder.format(split=split.split)
        sources |= {parent / name: p.path for name, p in zip(split.names, split.dataset.images, strict=True)}
    show_progress = len(sources) >= PROGRESS_MIN_IMAGES and sys.stderr.isatty()
    with progress_bar(show_progress, transient=True) as bar:
        for target, source in bar.track(sources.items(), total=len(sources), description="copying images"):
            target.parent.mkdir(parents=True, exist_ok=True)
            if mode == "copy":
                shutil.copyfile(source, target)
            else:
                _link(source.resolve(), target)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        target.symlink_to(source)
