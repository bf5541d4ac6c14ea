"""SAHI: COCO and YOLO."""

from pathlib import Path

from common import COCO, IMAGES, copy_images, export
from sahi.utils.coco import Coco
from sahi.utils.file import save_json


def load() -> Coco:
    """Return the dataset as SAHI has it."""
    return Coco.from_coco_dict_or_path(str(COCO), image_dir=str(IMAGES), ignore_negative_samples=False)


def write_coco(folder: Path) -> None:
    """Write COCO."""
    copy_images(folder / "images")
    save_json(load().json, str(folder / "annotations.json"))


def write_yolo(folder: Path) -> None:
    """Write YOLO."""
    load().export_as_yolo(str(folder), train_split_rate=1, disable_symlink=True)


export({"COCO": write_coco, "YOLO": write_yolo})
