"""supervision: COCO, YOLO and Pascal VOC."""

from pathlib import Path

import numpy as np
import supervision as sv
from common import export, read_source


def dataset() -> sv.DetectionDataset:
    """Return the images as supervision has them."""
    images, classes = read_source()
    detections = {}
    for image in images:
        boxes = np.array([[x, y, x + w, y + h] for _, (x, y, w, h) in image.objects], np.float64).reshape(-1, 4)
        labels = np.array([classes.index(label) for label, _ in image.objects], int)
        detections[str(image.path)] = sv.Detections(xyxy=boxes, class_id=labels)
    return sv.DetectionDataset(classes, [str(image.path) for image in images], detections)


def write_coco(folder: Path) -> None:
    """Write COCO."""
    dataset().as_coco(str(folder / "images"), str(folder / "annotations.json"))


def write_yolo(folder: Path) -> None:
    """Write YOLO."""
    dataset().as_yolo(str(folder / "images"), str(folder / "labels"), str(folder / "data.yaml"))
    text = (folder / "data.yaml").read_text()
    if "train:" not in text:
        (folder / "data.yaml").write_text(f"{text}\ntrain: images\n")


def write_voc(folder: Path) -> None:
    """Write Pascal VOC."""
    dataset().as_pascal_voc(str(folder / "JPEGImages"), str(folder / "Annotations"))


export({"COCO": write_coco, "YOLO": write_yolo, "Pascal VOC": write_voc})
