"""PyLabel: COCO, YOLO and Pascal VOC."""

from pathlib import Path
from typing import Any

from common import COCO, IMAGES, copy_images, export
from pylabel import importer


def load() -> Any:
    """Return the dataset as PyLabel has it."""
    return importer.ImportCoco(path=str(COCO), path_to_images=str(IMAGES), name="tools")


def write_coco(folder: Path) -> None:
    """Write COCO."""
    copy_images(folder / "images")
    load().export.ExportToCoco(output_path=str(folder / "annotations.json"))


def write_yolo(folder: Path) -> None:
    """Write YOLO."""
    load().export.ExportToYoloV5(output_path=str(folder / "labels"), yaml_file="data.yaml", copy_images=True)


def write_voc(folder: Path) -> None:
    """Write Pascal VOC."""
    copy_images(folder / "JPEGImages")
    load().export.ExportToVoc(output_path=str(folder / "Annotations"))


export({"COCO": write_coco, "YOLO": write_yolo, "Pascal VOC": write_voc})
