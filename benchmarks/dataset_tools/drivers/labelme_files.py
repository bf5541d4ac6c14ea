"""labelme: a JSON file beside each image, with rectangles or with polygons."""

from functools import partial
from pathlib import Path

from common import copy_images, export, read_source
from labelme._label_file import LabelFile


def corners(box: list[float], kind: str) -> list[list[float]]:
    """Return the points that labelme stores for a box."""
    x, y, w, h = box
    if kind == "rectangle":
        return [[x + w, y], [x, y + h]]
    return [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]


def write(folder: Path, kind: str) -> None:
    """Write all images; labelme writes no file for an image without a shape."""
    copy_images(folder)
    for image in read_source()[0]:
        fields = {"group_id": None, "shape_type": kind, "flags": {}, "description": "", "mask": None}
        shapes = [{"label": label, "points": corners(box, kind)} | fields for label, box in image.objects]
        if shapes:
            file, data = folder / f"{Path(image.name).stem}.json", image.path.read_bytes()
            LabelFile().save(str(file), shapes, image.name, image.height, image.width, image_data=data)


export({kind: partial(write, kind=kind) for kind in ("rectangle", "polygon", "oriented_rectangle")})
