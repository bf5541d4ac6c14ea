"""Pascal VOC format: one XML file per image.

Corners are read as written, x = xmin and width = xmax - xmin, without the "+1" of VOC's inclusive pixels, and written
in the same way, with decimals where needed. Objects marked difficult become crowd regions, and vice versa: as in VOC's
own evaluation they count neither as missed nor as false positives, and in training they are not negatives.

Written as ``Annotations/*.xml``, ``JPEGImages/`` and ``ImageSets/Main/SPLIT.txt``.
"""

import os
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from libradet.data.formats.filenames import UniqueNames, is_image_name, list_images, own_name, stem
from libradet.data.formats.reading import STANDARD_SPLITS, Splits, list_files, sort_splits, standard_split
from libradet.data.formats.rotation import describe_rotated
from libradet.data.formats.voc_lists import read_lists
from libradet.data.formats.voc_xml import ATTRIBUTES, CORNERS, parse
from libradet.data.formats.writing import SplitToWrite, Writer, format_number, merged_classes, shortest_decimals
from libradet.data.records import Dataset, ImageRecord, RawAnnotations
from libradet.errors import UserError
from libradet.utils.text import counted

_SPLIT_ORDER = ("train", "val", "trainval", "test")


def list_splits(root: Path) -> Splits:
    """Return the splits of all folders with annotations (several years, or a folder for each split), joined by name."""
    sources = [source for source in _sources(root) if source.files]
    splits: dict[str, list[_Listed]] = {}
    for source in sources:
        lists = read_lists(source.parent / "ImageSets", source.annotations, source.files)
        for name, files in (lists.files or _unlisted(source, alone=len(sources) == 1)).items():
            splits.setdefault(name, []).append(_Listed(source, files, lists.notes))
    return {name: partial(_read_split, root, name, splits[name], sources) for name in sort_splits(splits, _SPLIT_ORDER)}


class _Source(NamedTuple):
    """A folder of XML files, possibly in sub-folders, and the folders where their images may be.

    Attributes:
        parent: folder of the dataset or of one of its parts.
    """

    annotations: Path
    files: list[Path]
    folders: list[Path]

    @property
    def parent(self) -> Path:
        """The folder that contains the folder of XML files, or that folder itself."""
        return self.annotations.parent if self.annotations.name.lower() == "annotations" else self.annotations


class _Listed(NamedTuple):
    """The files of a split in one source, and notes on its lists."""

    source: _Source
    files: list[Path]
    notes: list[str]


def _sources(root: Path) -> list[_Source]:
    """Return the sources at most two levels down (``VOCdevkit/VOC2007``), else folders with images and XML together."""
    sources = []
    for parent in [root, *sorted(root.glob("*/")), *sorted(root.glob("*/*/"))]:
        for name in ("Annotations", "annotations"):
            if files := _list_xml(parent / name, "**/*"):
                folders = (parent / "JPEGImages", parent / "images", parent / name, parent)
                sources.append(_Source(parent / name, files, [folder for folder in folders if folder.is_dir()]))
                break
    if sources:
        # On file systems that ignore case, both names are one folder; inside a source there is no other.
        return [
            s for s in sources if not any(s is not o and s.annotations.is_relative_to(o.annotations) for o in sources)
        ]
    folders = [root / name for name in ("train", "valid", "val", "test")]
    sources = [_Source(folder, _list_xml(folder, "*"), [folder]) for folder in folders]
    if any(source.files for source in sources):
        return sources
    return [_Source(root, _list_xml(root, "*"), [root])]


def _list_xml(folder: Path, pattern: str) -> list[Path]:
    return [file for file in list_files(folder, pattern) if file.suffix.lower() == ".xml"]


def _unlisted(source: _Source, alone: bool) -> dict[str, list[Path]]:
    """Return all files of a source without lists as one split, named after its folder if that names a split."""
    is_split = standard_split(source.parent.name) in STANDARD_SPLITS
    return {source.parent.name if is_split or not alone else "all": source.files}


def _read_split(root: Path, split: str, listed: list[_Listed], sources: list[_Source]) -> RawAnnotations:
    """Read a split; classes are those of all splits in alphabetical order, so every split numbers them alike."""
    parsed = {file: parse(file) for source in sources for file in source.files}
    names = sorted({o["name"] for record in parsed.values() for o in record["objects"]})
    numbers = {name: i for i, name in enumerate(names, start=1)}
    categories = [{"id": i, "name": name} for name, i in numbers.items()]
    first = listed[0].source
    folders = first.folders if len(listed) == 1 else [root]
    raw = RawAnnotations(root, split, first.annotations, folders, [], [], categories, is_voc=True)
    num_background = 0
    image_files_of = [_ImageFiles(source) for source, *_ in listed]
    for (_, files, notes), image_files in zip(listed, image_files_of, strict=True):
        raw.notes += notes
        for file in files:
            image = image_files.locate(file, parsed.get(file))
            if file not in parsed:
                if image is None:
                    raise UserError(f"{file}: listed in ImageSets/Main, but missing; remove it from the list.")
                num_background += 1
            record = parsed.get(file, _BACKGROUND)
            file_name = image_files.name(file, record) if image is None else _file_name(image, folders)
            raw.images.append({"id": len(raw.images) + 1, "file_name": file_name, **record["size"]})
            raw.annotations += _annotations(file, record, len(raw.images), len(raw.annotations), numbers)
    if num_background:
        raw.notes.append(f"{num_background} listed images have no XML file: used as background")
    raw.notes += _notes(raw, listed, image_files_of, parsed)
    return raw


_BACKGROUND: dict[str, Any] = {"file_name": None, "size": {"width": None, "height": None}, "objects": []}


def _annotations(
    file: Path, record: dict[str, Any], image_id: int, count: int, numbers: dict[str, int]
) -> list[dict[str, Any]]:
    return [
        {
            "id": count + order,
            "where": f"{file.name}, object {order}",
            "image_id": image_id,
            "category_id": numbers[box["name"]],
            "bbox": box["bbox"],
            "iscrowd": box["difficult"],
            **({"attributes": box["attributes"]} if box["attributes"] else {}),
        }
        for order, box in enumerate(record["objects"], start=1)
    ]


def _notes(
    raw: RawAnnotations,
    listed: list[_Listed],
    image_files_of: list["_ImageFiles"],
    parsed: dict[Path, dict[str, Any]],
) -> list[str]:
    notes = []
    num_difficult = sum(a["iscrowd"] for a in raw.annotations)
    if num_difficult:
        notes.append(
            f"{counted(num_difficult, 'object is', 'objects are')} marked difficult or crowd: neither "
            "targets nor negatives"
        )
    if counts_from_one(raw.images, raw.annotations):
        notes.append(
            "corners seem to count from 1 (none is 0, some equal the image's size): boxes are read a pixel off; "
            "data convert with --voc_one_based corrects them"
        )
    records = [parsed[file] for _, files, _ in listed for file in files if file in parsed]
    notes += describe_rotated(sum(box["is_rotated"] for record in records for box in record["objects"]))
    others = [example for image_files in image_files_of for example in image_files.matched_by_stem]
    if others:
        notes.append(
            f"{counted(len(others), 'image does not', 'images do not')} exist as <filename> names them: "
            "those named like their XML file are used "
            f"({others[0]})"
        )
    copied = [example for image_files in image_files_of for example in image_files.copied]
    if copied:
        notes.append(
            f"{len(copied)} XML files name the image of another one: those named like themselves are used ({copied[0]})"
        )
    for (source, files, _), image_files in zip(listed, image_files_of, strict=True):
        used = {_comparable(stem) for stem in image_files.xml_stems}
        used |= {_comparable(str(file.relative_to(source.annotations).with_suffix(""))) for file in files}
        used |= {_comparable(Path(parsed[file]["file_name"] or "").stem) for file in source.files}
        stems = {stem: (_comparable(stem), _comparable(Path(stem).name)) for stem in image_files.by_stem}
        if unused := [stem for stem, names in stems.items() if used.isdisjoint(names)]:
            notes.append(f"{counted(len(unused), 'image has', 'images have')} no XML file: not used ({unused[0]})")
    return notes


def _comparable(name: str) -> str:
    """Return a name as file systems that ignore case and Unicode form have it."""
    return unicodedata.normalize("NFC", name).casefold()


def counts_from_one(images: list[Any], annotations: list[Any]) -> bool:
    """Return whether corners seem to be inclusive pixels that count from 1, as in VOC's own files.

    No corner is below 1, and some of the largest equal the width or height of their image.
    """
    sizes = {image["id"]: (image.get("width"), image.get("height")) for image in images}
    reaches_end = False
    for annotation in annotations:
        if annotation["bbox"] is None:
            continue
        x, y, w, h = annotation["bbox"]
        if x < 1 or y < 1:
            return False
        width, height = sizes[annotation["image_id"]]
        with suppress(TypeError, ValueError):
            reaches_end |= x + w == float(width) or y + h == float(height)
    return reaches_end


def count_from_zero(raw: RawAnnotations) -> None:
    """Change boxes whose corners are pixels that count from 1: the upper left pixel is 0, the lower right is inside.

    Raises:
        UserError: the dataset is not in Pascal VOC format.
    """
    if not raw.is_voc:
        raise UserError(f"{raw.root}: --voc_one_based is an option of Pascal VOC datasets, which this is not.")
    for annotation in raw.annotations:
        if annotation["bbox"] is not None:
            x, y, w, h = annotation["bbox"]
            annotation["bbox"] = [x - 1, y - 1, w + 1, h + 1]
    raw.notes = [note for note in raw.notes if not note.startswith("corners seem to count from 1")]
    raw.notes.append("corners are read as pixels that count from 1")


def _file_name(image: Path, folders: list[Path]) -> str:
    return str(next(image.relative_to(folder) for folder in folders if image.is_relative_to(folder)))


class _ImageFiles:
    """Image files of a source.

    Attributes:
        by_stem: by path below their folder, without the suffix, and by bare name where no path is alike.
        xml_stems: of all XML files, by path below their folder, without the suffix.
        matched_by_stem: XML files whose image has another name than they say.
        copied: XML files that name the image of another one although there is one named like themselves.
    """

    def __init__(self, source: _Source) -> None:
        self.source = source
        self.by_stem: dict[str, Path] = {}
        self.xml_stems = {str(file.relative_to(source.annotations).with_suffix("")) for file in source.files}
        self.matched_by_stem: list[str] = []
        self.copied: list[str] = []
        for folder in source.folders:
            is_own = folder != source.parent or source.annotations == source.parent
            for path in list_images(folder) if is_own else sorted(folder.glob("*")):
                if is_image_name(path.name):
                    self.by_stem.setdefault(str(path.relative_to(folder).with_suffix("")), path)

    def locate(self, file: Path, record: dict[str, Any] | None) -> Path | None:
        """Return the image that an XML file names; if there is none, an image named like the XML file, or None.

        An XML file that was copied, and still names the image of another one, belongs to the image named like itself.
        """
        inside = file.relative_to(self.source.annotations)
        own = self.by_stem.get(str(inside.with_suffix("")))
        if record is not None and record["file_name"]:
            written = record["file_name"].replace("\\", "/")
            for name in (str(inside.with_name(Path(written).name)), written):
                for folder in self.source.folders:
                    if not os.path.isfile(folder / name):
                        continue
                    if own in (None, folder / name) or str(Path(name).with_suffix("")) not in self.xml_stems:
                        return folder / name
                    self.copied.append(f"{file.name} names {record['file_name']}")
                    return own
        image = own or self.by_stem.get(file.stem)
        if image and record is not None and record["file_name"]:
            self.matched_by_stem.append(f"{file.name} names {record['file_name']}")
        return image

    def name(self, file: Path, record: dict[str, Any]) -> str:
        """Return the name of an image that does not exist."""
        return record["file_name"] or f"{file.stem}.jpg"


def supported_attributes(record: dict[str, Any]) -> dict[str, str]:
    """Return the ``attributes`` of a record that this format supports, as text."""
    recorded = record.get("attributes")
    attributes = recorded if isinstance(recorded, dict) else {}
    return {
        key: str(int(attributes[key]) if isinstance(attributes[key], bool) else attributes[key])
        for key in ATTRIBUTES
        if isinstance(attributes.get(key), str | int)
    }


def name_images(split: str, dataset: Dataset, folders: Sequence[Path], names: UniqueNames) -> list[str]:
    """Return the names of images in ``JPEGImages``; an image with the same objects in two splits is written once."""
    chosen: dict[str, None] = {}
    for row, image in enumerate(dataset.images):
        preferred = own_name(image.path, folders, dataset.split).replace("/", "_")
        classes = tuple(dataset.class_names[label] for label in image.labels)
        ground_truth = (image.path, image.apply_exif, classes, image.boxes.tobytes(), image.crowd.tobytes())
        name = names.choose(ground_truth, preferred, f"{split}_")
        if name in chosen:
            name = names.choose((split, row), preferred, f"{split}_")
        chosen[name] = None
    return list(chosen)


def write(root: Path, splits: Sequence[SplitToWrite], polygons: bool = False) -> None:
    """Write all splits. ``polygons`` has no effect: Pascal VOC has none.

    Raises:
        UserError: a class has a name that XML cannot hold.
    """
    _check_class_names(merged_classes(splits))
    (root / "Annotations").mkdir(parents=True)
    for split in splits:
        for image, name in zip(split.dataset.images, split.names, strict=True):
            tree = ET.ElementTree(_to_xml(image, name, split.dataset.class_names))
            ET.indent(tree)
            tree.write(root / "Annotations" / f"{stem(name)}.xml", encoding="utf-8")
    if [split.split for split in splits] != ["all"]:
        lists = root / "ImageSets" / "Main"
        lists.mkdir(parents=True)
        for split in splits:
            text = "".join(f"{stem(name)}\n" for name in split.names)
            (lists / f"{split.split}.txt").write_text(text, encoding="utf-8")


def _check_class_names(classes: list[str]) -> None:
    invalid = [name for name in classes if not name.isprintable() or name != name.strip()]
    if invalid:
        raise UserError(
            f"class {invalid[0]!r}: Pascal VOC cannot hold this name (spaces around it, control characters); rename it."
        )


def _to_xml(image: ImageRecord, name: str, classes: list[str]) -> ET.Element:
    root = ET.Element("annotation")
    _add(root, filename=name)
    _add(ET.SubElement(root, "size"), width=image.width, height=image.height)
    corners = shortest_decimals(image.boxes.astype(np.float64), lambda values: values, image.boxes)
    records = image.records[1] if image.records else [{}] * len(corners)
    for box, label, crowd, record in zip(corners, image.labels, image.crowd, records, strict=True):
        node = ET.SubElement(root, "object")
        _add(node, name=classes[label], **supported_attributes(record), difficult=int(crowd))
        _add(ET.SubElement(node, "bndbox"), **dict(zip(CORNERS, map(format_number, box), strict=True)))
    return root


def _add(node: ET.Element, **values: Any) -> None:
    for key, value in values.items():
        ET.SubElement(node, key).text = str(value)


WRITER = Writer("JPEGImages", stem, name_images, write)
