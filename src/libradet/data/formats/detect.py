"""Detection of a folder's dataset format, and choice of its splits."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from libradet.data.formats import coco, cvat, datumaro, imagefolder, labelme, voc, yolo, yolo_config
from libradet.data.formats.filenames import is_image_name
from libradet.data.formats.reading import STANDARD_SPLITS, DatasetFormat, Splits, standard_split
from libradet.data.records import RawAnnotations
from libradet.errors import UserError


def _list_voc_splits(root: Path) -> Splits:
    """Return Pascal VOC's splits, unless an XML file in the folder itself is CVAT's."""
    has_folder = (root / "Annotations").is_dir() or (root / "annotations").is_dir()
    is_cvat = any(cvat.is_cvat_file(file) for file in [root / cvat.FILE, *sorted(root.glob("*.xml"))[:1]])
    return {} if is_cvat and not has_folder else voc.list_splits(root)


def _list_instances_files(root: Path) -> Splits:
    """Return the splits of COCO's own layout, without those of other formats whose files are in that folder."""
    files = sorted((root / "annotations").glob("*.json"))
    if any(file.stem.startswith("instances_") for file in files):
        return coco.list_instances_files(root)
    is_other = any(labelme.is_labelme_file(file) or datumaro.is_datumaro_file(file) for file in files[:1])
    return {} if is_other else coco.list_instances_files(root)


FORMATS = (
    DatasetFormat(coco.list_split_files, "train.json, val.json"),
    DatasetFormat(coco.locate_single_file, "annotations.json"),
    DatasetFormat(_list_instances_files, "annotations/*.json"),
    DatasetFormat(coco.detect_roboflow_export, "*/_annotations.coco.json"),
    DatasetFormat(yolo.list_splits, "data.yaml"),
    DatasetFormat(cvat.list_splits, "annotations.xml"),
    DatasetFormat(_list_voc_splits, "Annotations/*.xml"),
    DatasetFormat(datumaro.list_splits, "annotations/*.json (Datumaro)"),
    DatasetFormat(imagefolder.list_splits, "metadata.jsonl"),
    DatasetFormat(labelme.list_splits, "labelme files (*.json)"),
    DatasetFormat(coco.list_other_files, "other COCO files (*.json)"),
)
"""Formats in the order of detection: the first that recognizes a folder reads it."""

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
_PARTS = ("images", "labels", "annotations", "jpegimages", "imagesets", "main")
"""Names of folders inside a dataset, in lower case."""

SUPPORTED = """\
  train.json, val.json + images/                                 COCO
  annotations.json + images/                                     COCO, one split
  annotations/instances_train2017.json + train2017/              COCO
  train/_annotations.coco.json, valid/_annotations.coco.json     Roboflow's COCO export
  data.yaml + images/, labels/                                   YOLO
  annotations.xml + images/                                      CVAT for images 1.1
  Annotations/*.xml + JPEGImages/                                Pascal VOC
  annotations/train.json + images/train/                         Datumaro
  metadata.jsonl beside the images, or in train/, validation/    Hugging Face's imagefolder
  a .json beside each image                                      labelme, AnyLabeling
  any .json with images, annotations and categories + images/    COCO"""


def list_splits(data: Path) -> Splits:
    """Return the splits of a dataset, by names as its files have them.

    Raises:
        UserError: ``data`` does not exist, or is in no supported format.
    """
    if not data.exists():
        raise UserError(f"{data}: no such folder; check the path.")
    if data.is_file() and data.suffix != ".json":
        raise UserError(f"{data}: is {_describe_file(data)}, and a dataset is named by its folder: {_folder_of(data)}")
    if data.is_file():
        return coco.list_splits_of_file(data)
    for position, dataset_format in enumerate(FORMATS):
        if splits := dataset_format.list_splits(data):
            unused = [other.files for other in FORMATS[position + 1 :] if _matches(other, data)]
            if not unused:
                return splits
            return {name: partial(_read_with_note, read, unused) for name, read in splits.items()}
    raise UserError(f"{data}: not in a supported dataset format. Supported are\n{SUPPORTED}")


def _describe_file(file: Path) -> str:
    suffix = file.suffix.lower()
    kinds = {
        "a YAML file": (".yaml", ".yml"),
        "an XML file": (".xml",),
        "a list of images": (".jsonl", ".csv", ".parquet", ".txt"),
        "an archive": _ARCHIVES,
    }
    known = next((kind for kind, suffixes in kinds.items() if suffix in suffixes), "a file")
    return "an image" if is_image_name(file.name) else known


def _folder_of(file: Path) -> str:
    """Return which folder to name in place of a file, or how to make one."""
    suffix = file.suffix.lower()
    if suffix in _ARCHIVES:
        return "extract it, and name the folder with the annotation files."
    config = yolo_config.read_file(file) if suffix in (".yaml", ".yml") else None
    if config is not None and (used := yolo_config.read_config(file.parent)) and used.file != file:
        target = config.root.resolve() / "data.yaml"
        action = "put it in the place of" if target.exists() else "copy it to"
        return f"{action} {target}, and name {target.parent}."
    folders = [file.absolute().parent]
    while folders[-1].name.lower() in _PARTS or standard_split(folders[-1].name) in STANDARD_SPLITS:
        folders.append(folders[-1].parent)
    if known := [folder for folder in folders if contains_dataset(folder)]:
        return f"name {known[-1]}."
    return "name the one with images and annotations (libradet data check DIR tells whether it can be read)."


def contains_dataset(data: Path) -> bool:
    """Return whether a folder has annotation files of any format, even damaged ones."""
    return any(_matches(dataset_format, data) for dataset_format in FORMATS)


def choose_split(splits: Splits, split: str | None, data: Path) -> str:
    """Return the dataset's own name of a split: exact, or an alias ("val" for "valid", "val2017").

    A dataset with one unnamed split serves as any; None requests the training split, else the first.

    Raises:
        UserError: there is no such split.
    """
    names = list(splits)
    if split in names:
        return split
    if names == ["all"]:
        return "all"
    requested = standard_split(split or "train")
    matches = [name for name in names if standard_split(name) == requested]
    if matches:
        return max(matches)
    if split is None:
        return names[0]
    raise UserError(f"{data}: there is no split {split!r}; choose one of {', '.join(names)}.")


def _matches(dataset_format: DatasetFormat, data: Path) -> bool:
    try:
        return bool(dataset_format.list_splits(data))
    except UserError:  # damaged, but there
        return True


def _read_with_note(read: Callable[[], RawAnnotations], unused: list[str]) -> RawAnnotations:
    """Read a split, and note the annotation files that are not used because of it."""
    raw = read()
    text = f"not used: {' and '.join(unused)}, because {raw.source.name} exists; keep them in other folders"
    raw.notes.append(text)
    raw.unused.append(text)
    return raw
