"""labelme2coco: COCO from labelme's files."""

import json
from pathlib import Path

from common import copy_images, export, read_source
from labelme2coco import convert


def write_coco(folder: Path) -> None:
    """Write labelme's files by hand and convert them."""
    source = folder.parent / "labelme"
    copy_images(source)
    for image in read_source()[0]:
        shapes = [
            {"label": label, "points": [[x, y], [x + w, y + h]], "group_id": None, "shape_type": "rectangle"}
            for label, (x, y, w, h) in image.objects
        ]
        content = {"version": "5.0.0", "flags": {}, "shapes": shapes, "imagePath": image.name, "imageData": None}
        content |= {"imageHeight": image.height, "imageWidth": image.width}
        (source / image.name).with_suffix(".json").write_text(json.dumps(content))
    convert(str(source), str(folder))


export({"COCO": write_coco})
