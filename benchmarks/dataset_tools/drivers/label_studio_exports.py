"""label-studio-sdk: its converter writes an export of Label Studio as COCO, YOLO and Pascal VOC."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from common import IMAGES, copy_images, export, read_source
from label_studio_sdk.converter import Converter

CONFIG = """<View><Image name="image" value="$image"/>
<RectangleLabels name="label" toName="image">{labels}</RectangleLabels></View>"""


def task(number: int, image: Any) -> dict[str, Any]:
    """Return a task as Label Studio exports it: boxes in percent."""
    results = []
    for i, (label, (x, y, w, h)) in enumerate(image.objects):
        percent = {"x": 100 * x / image.width, "y": 100 * y / image.height}
        percent |= {"width": 100 * w / image.width, "height": 100 * h / image.height}
        value = percent | {"rotation": 0, "rectanglelabels": [label]}
        names = {"id": f"r{i}", "from_name": "label", "to_name": "image", "type": "rectanglelabels"}
        sizes = {"original_width": image.width, "original_height": image.height, "image_rotation": 0}
        results.append(names | sizes | {"value": value})
    annotation = {"id": number, "result": results, "was_cancelled": False, "completed_by": {"id": 1}}
    return {"id": number, "data": {"image": str(image.path)}, "annotations": [annotation], "predictions": []}


def write(folder: Path, convert: str) -> None:
    """Convert all tasks."""
    images, classes = read_source()
    tasks = [task(number, image) for number, image in enumerate(images, start=1)]
    file = folder.parent / "tasks.json"
    file.write_text(json.dumps(tasks))
    labels = "".join(f'<Label value="{name}"/>' for name in classes)
    converter = Converter(CONFIG.format(labels=labels), project_dir=str(IMAGES), download_resources=False)
    getattr(converter, convert)(str(file), str(folder), is_dir=False)
    copy_images(folder / "images")


export(
    {
        "COCO": partial(write, convert="convert_to_coco"),
        "YOLO": partial(write, convert="convert_to_yolo"),
        "Pascal VOC": partial(write, convert="convert_to_voc"),
    }
)
