"""COCO format: JSON files with images, annotations and categories, in the folder layouts of several tools."""

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np

from libradet.data.formats.filenames import UniqueNames, own_name
from libradet.data.formats.reading import (
    STANDARD_SPLITS,
    Splits,
    list_files,
    read_json,
    sort_splits,
    standard_split,
)
from libradet.data.formats.rotation import describe_rotated, rotation_of, upright_box
from libradet.data.formats.writing import SplitToWrite, Writer, shortest_decimals
from libradet.data.records import BOX_FIELDS, IMAGE_FIELDS, Dataset, RawAnnotations, extra_fields
from libradet.data.segmentations import segmentation_to_json
from libradet.data.validation.annotations import xywh_to_xyxy
from libradet.errors import UserError
from libradet.utils.atomic_io import write_json
from libradet.utils.text import counted

_SECTIONS = ("images", "annotations", "categories")
_NOT_INSTANCES = re.compile(r"^(captions|person_keypoints|image_info|stuff|panoptic|deprecated)_")
_IMAGE_LIST = "image_info_"
_SPLIT_FILES = ("train", "val", "valid", "validation", "test")
_ROBOFLOW_FILE = "_annotations.coco.json"
_SINGLE_FILES = ("annotations.json", _ROBOFLOW_FILE, "instances.json")


def list_splits_of_file(path: Path) -> Splits:
    """Return the only split of a single COCO file."""
    roots = [path.parent]
    if path.parent.name == "annotations":
        roots.append(path.parent.parent)
    name = path.stem.removeprefix("instances_").removeprefix(_IMAGE_LIST)
    folders = [folder for root in roots for folder in _folders_of_list(root, name)]
    return {"all": partial(read, path, path.parent, name, folders)}


def list_split_files(root: Path) -> Splits:
    """Return the splits in ``train.json``, ``val.json`` and others in the folder itself."""
    names = [name for name in _SPLIT_FILES if (root / f"{name}.json").is_file()]
    return {name: partial(read, root / f"{name}.json", root, name, _shared_folder_first(root, name)) for name in names}


def locate_single_file(root: Path) -> Splits:
    """Return the only split, in ``annotations.json`` or a file that tools export under another name."""
    for name in _SINGLE_FILES:
        if (root / name).is_file():
            return {"all": partial(read, root / name, root, "all", _shared_folder_first(root, "all"))}
    return {}


def list_instances_files(root: Path) -> Splits:
    """Return the splits of COCO's own layout, ``annotations/instances_train2017.json``."""
    files = list_files(root / "annotations", "*.json")
    instances = [file for file in files if file.stem.startswith("instances_")]
    files = instances or [file for file in files if not _NOT_INSTANCES.match(file.stem)]
    names = [file.stem.removeprefix("instances_") for file in files]
    splits = {}
    for name, file in zip(names, files, strict=True):
        splits[name] = partial(read, file, root, name, _image_folders(root, name))
    splits |= _image_lists(root, set(names))
    if len(splits) == 1 and names and standard_split(names[0]) not in STANDARD_SPLITS:
        return {"all": splits[names[0]]}
    return {name: splits[name] for name in sort_splits(sorted(splits))}


def list_other_files(root: Path) -> Splits:
    """Return the splits in files of other names, as many tools export them: ``result.json``, ``labels.json``.

    Raises:
        UserError: there are several files, and their names do not say which is which split.
    """
    files = other_files(root)
    if len(files) == 1:
        name = _split_in_name(files[0].stem) or "all"
        return {name: partial(read, files[0], root, name, _shared_folder_first(root, name))}
    by_split: dict[str, Path] = {}
    for file in files:
        split = _split_in_name(file.stem)
        if split is None or split in by_split:
            names = ", ".join(file.name for file in files)
            raise UserError(
                f"{root}: has several COCO files ({names}) whose names do not say which is train, val or test; name "
                "the path of one of them, or rename them train.json, val.json and test.json."
            )
        by_split[split] = file
    names = sort_splits(by_split)
    return {name: partial(read, by_split[name], root, name, _shared_folder_first(root, name)) for name in names}


def other_files(root: Path) -> list[Path]:
    """Return the COCO files in the folder itself that have none of the usual names."""
    usual = {*_SINGLE_FILES, *(f"{name}.json" for name in _SPLIT_FILES)}
    return [file for file in list_files(root, "*.json") if file.name not in usual and _has_sections(file)]


def _has_sections(file: Path) -> bool:
    """Return whether a file names the sections of a COCO dataset, without parsing it: files have gigabytes."""
    try:
        with file.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as text:
            start = text[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
            return start.startswith(b"{") and all(text.find(b'"%s"' % key.encode()) >= 0 for key in _SECTIONS)
    except (OSError, ValueError):  # unreadable or empty
        return False


def _split_in_name(name: str) -> str | None:
    """Return the split that a file name contains, as a word of its own or, if only one is, inside a word."""
    words = {standard_split(word) for word in re.findall("[a-z]+", name.lower())} & set(STANDARD_SPLITS)
    words = words or {split for split in STANDARD_SPLITS if split in name.lower()}
    return words.pop() if len(words) == 1 else None


def _image_lists(root: Path, known: set[str]) -> Splits:
    """Return image lists without annotations whose images are there, such as ``image_info_test-dev2017.json``."""
    splits = {}
    for file in list_files(root / "annotations", "*.json"):
        name = file.stem.removeprefix(_IMAGE_LIST)
        folders = _folders_of_list(root, name)
        own_folders = [folder for folder in folders if folder not in (root, root / "images")]
        if name != file.stem and name not in known and own_folders:
            splits[name] = partial(read, file, root, name, folders)
    return splits


def _folders_of_list(root: Path, name: str) -> list[Path]:
    """Return the folders of a list's images; those of test-dev2017 are among those of test2017."""
    return list(dict.fromkeys(_image_folders(root, name) + _image_folders(root, name.replace("-dev", ""))))


def detect_roboflow_export(root: Path) -> Splits:
    """Return the splits of Roboflow's layout, ``train/_annotations.coco.json`` next to the images."""
    splits = {}
    for name in ("train", "valid", "val", "test"):
        file = root / name / _ROBOFLOW_FILE
        if file.is_file():
            splits[name] = partial(read, file, root, name, [root / name, root / name / "images"])
    return splits


def read(path: Path, root: Path, split: str, image_folders: list[Path]) -> RawAnnotations:
    """Read a COCO file.

    Args:
        path: the file.
        root: folder of the dataset.
        split: name of the split.
        image_folders: where images may be.

    Raises:
        UserError: the file is damaged or does not hold lists of images, annotations and categories.
    """
    content = read_json(path, _polygons_to_arrays)
    if not isinstance(content, dict):
        what = "detection results" if isinstance(content, list) else "a single value"
        raise UserError(f"{path}: holds {what}, not a COCO dataset (an object with images, annotations, categories).")
    notes = _note_resource_forks(path)
    if "annotations" not in content and path.stem.startswith(_IMAGE_LIST):
        content["annotations"] = []
        notes.append(f"{path.name} has no annotations: a list of images, for predictions only")
    sections = []
    for key in _SECTIONS:
        if not isinstance(content.get(key), list):
            problem = "is not a list" if key in content else "is missing"
            raise UserError(f"{path}: {key!r} {problem}: a COCO dataset has images, annotations and categories.")
        sections.append(content[key])
    raw = RawAnnotations(root, split, path, image_folders, *sections)
    raw.notes += notes
    raw.extra = {key: value for key, value in content.items() if key not in _SECTIONS}
    _enclose_rotated(raw)
    if path.name == _ROBOFLOW_FILE:
        _drop_root_category(raw)
    return raw


def _note_resource_forks(path: Path) -> list[str]:
    forks = sum(1 for _ in path.parent.glob("._*.json"))
    return (
        [
            (
                f"{counted(forks, 'file ._*.json is a resource fork', 'files ._*.json are resource forks')} of macOS: "
                "left out"
            )
        ]
        if forks
        else []
    )


def _polygons_to_arrays(record: dict[str, Any]) -> dict[str, Any]:
    """Convert polygons to float32 arrays while parsing: as lists of Python floats, COCO's need gigabytes."""
    polygons = record.get("segmentation")
    if isinstance(polygons, list):
        # Invalid polygons stay unchanged, for validation to report them.
        with suppress(TypeError, ValueError, OverflowError):
            record["segmentation"] = [np.array(polygon, np.float32) for polygon in polygons]
    return record


def _enclose_rotated(raw: RawAnnotations) -> None:
    """Replace rotated boxes, as CVAT exports them, by the upright boxes around them; masks are rotated already."""
    count = 0
    for number, record in enumerate(raw.annotations):
        attributes = record.get("attributes") if isinstance(record, dict) else None
        if not isinstance(attributes, dict) or record.get("segmentation") or not (degrees := rotation_of(attributes)):
            continue
        with suppress(TypeError, ValueError):  # validation reports what is no box
            box = upright_box([float(value) for value in record.get("bbox")], degrees)
            # Without the angle, which would apply again where this record is written and read.
            raw.annotations[number] = record | {"bbox": box, "attributes": attributes | {"rotation": 0.0}}
            count += 1
    raw.notes += describe_rotated(count)


def _drop_root_category(raw: RawAnnotations) -> None:
    """Remove Roboflow's category 0, the project itself, a parent of all others without a box of its own."""
    categories = [c for c in raw.categories if isinstance(c, dict)]
    for root in [c for c in categories if c.get("supercategory") == "none"]:
        others = [c for c in categories if c is not root]
        used = any(isinstance(a, dict) and a.get("category_id") == root.get("id") for a in raw.annotations)
        if others and not used and all(c.get("supercategory") == root.get("name") for c in others):
            raw.categories = [c for c in raw.categories if c is not root]
            raw.notes.append(f"category {root.get('name')!r} only groups the others: not a class")


def _image_folders(root: Path, split: str) -> list[Path]:
    candidates = [root / "images" / split, root / split, root / "images", root / split / "images"]
    candidates += [root / "data" / split, root / "data", root]
    return [folder for folder in candidates if folder.is_dir()]


def _shared_folder_first(root: Path, split: str) -> list[Path]:
    shared = root / "images"
    return sorted(_image_folders(root, split), key=lambda folder: folder != shared)


def to_coco(dataset: Dataset) -> dict[str, Any]:
    """Return the split as a COCO dataset, with its own image, annotation and category ids and all optional fields."""
    annotations: list[dict[str, Any]] = []
    for image in dataset.images:
        xywh, ids = _xyxy_to_xywh(image.boxes), image.annotation_ids.tolist()
        for i in range(len(image.labels)):
            record = {
                "id": ids[i],
                "image_id": image.id,
                "category_id": dataset.category_ids[image.labels[i]],
                "bbox": xywh[i].tolist(),
                "area": float(image.area[i]),
                "iscrowd": int(image.crowd[i]),
            }
            if image.segmentations and image.segmentations[i] is not None:
                record["segmentation"] = segmentation_to_json(image.segmentations[i])
            annotations.append(record)
    images = [{"id": p.id, "file_name": p.path.name, "width": p.width, "height": p.height} for p in dataset.images]
    classes = zip(dataset.category_ids, dataset.class_names, strict=True)
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in classes],
    }


def name_images(split: str, dataset: Dataset, folders: Sequence[Path], names: UniqueNames) -> list[str]:
    """Return the names of images in ``images/``, which all splits share."""
    return [
        names.choose(image.path, own_name(image.path, folders, dataset.split), f"{split}/") for image in dataset.images
    ]


def write(root: Path, splits: Sequence[SplitToWrite], polygons: bool = False) -> None:
    """Write all splits as ``SPLIT.json``, or in COCO's own layout if one is not train, val or test.

    ``polygons`` has no effect: masks are always written.
    """
    standard = {split.split for split in splits} <= set(STANDARD_SPLITS)
    for split in splits:
        name = f"{split.split}.json" if standard else f"annotations/instances_{split.split}.json"
        if [s.split for s in splits] == ["all"]:
            name = "annotations.json"
        write_json(root / name, _content(split))


def _content(split: SplitToWrite) -> dict[str, Any]:
    """Return a split with its own ids and all its other fields."""
    dataset = split.dataset
    content = to_coco(dataset)
    for record, extra in zip(content["categories"], split.categories, strict=True):
        record |= extra
    for record, image, name in zip(content["images"], dataset.images, split.names, strict=True):
        record |= {"file_name": name}
        record |= extra_fields(image.records[0], IMAGE_FIELDS) if image.records else {}
    originals = [record for image in dataset.images if image.records for record in image.records[1]]
    boxes = np.concatenate([np.empty((0, 4), np.float32), *(image.boxes for image in dataset.images)])
    rounded = shortest_decimals(_xyxy_to_xywh(boxes), xywh_to_xyxy, boxes).tolist()
    for record, box, original in zip(content["annotations"], rounded, originals, strict=True):
        record |= {"bbox": box} | extra_fields(original, BOX_FIELDS)
    return split.extra | content


def _xyxy_to_xywh(boxes: np.ndarray) -> np.ndarray:
    xywh = boxes.astype(np.float64)
    xywh[:, 2:] -= xywh[:, :2]
    return xywh


WRITER = Writer("images", str, name_images, write)
