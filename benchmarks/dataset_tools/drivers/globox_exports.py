"""globox: COCO, Pascal VOC, YOLO, CVAT and labelme."""

from pathlib import Path

from common import COCO, copy_images, export, read_source
from globox import AnnotationSet


def load() -> AnnotationSet:
    """Return the dataset as globox has it."""
    return AnnotationSet.from_coco(COCO)


def write_coco(folder: Path) -> None:
    """Write COCO."""
    copy_images(folder / "images")
    load().save_coco(folder / "annotations.json", auto_ids=True)


def write_voc(folder: Path) -> None:
    """Write Pascal VOC."""
    copy_images(folder / "JPEGImages")
    load().save_pascal_voc(folder / "Annotations")


def write_yolo(folder: Path) -> None:
    """Write YOLO with class names."""
    copy_images(folder / "images")
    names = read_source()[1]
    load().save_yolo_v5(folder / "labels", label_to_id={name: i for i, name in enumerate(names)})
    (folder / "classes.txt").write_text("\n".join(names))


def write_cvat(folder: Path) -> None:
    """Write CVAT's XML."""
    copy_images(folder / "images")
    load().save_cvat(folder / "annotations.xml")


def write_labelme(folder: Path) -> None:
    """Write labelme's files."""
    copy_images(folder)
    load().save_labelme(folder)


export({"COCO": write_coco, "Pascal VOC": write_voc, "YOLO": write_yolo, "CVAT": write_cvat, "labelme": write_labelme})
