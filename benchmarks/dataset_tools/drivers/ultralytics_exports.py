"""Ultralytics: its converter from COCO to YOLO."""

import os
from pathlib import Path

os.environ["YOLO_OFFLINE"] = "True"

from common import COCO, copy_images, export, read_source
from ultralytics.data.converter import convert_coco


def write_yolo(folder: Path) -> None:
    """Convert to YOLO; the converter writes label files, not the class names."""
    source = folder.parent / "coco"
    source.mkdir(exist_ok=True)
    (source / "instances_train.json").write_bytes(COCO.read_bytes())
    target = folder / "converted"
    convert_coco(labels_dir=str(source), save_dir=str(target), cls91to80=False)
    copy_images(target / "images" / "train")
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(read_source()[1]))
    (folder / "data.yaml").write_text(f"path: converted\ntrain: images/train\nnames:\n{names}")


export({"YOLO": write_yolo})
