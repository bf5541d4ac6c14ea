"""Reads the images of the comparison, and names the folders of exports; imported by scripts in a tool's environment.

A driver is called as ``python DRIVER.py SOURCE OUTPUT``. ``SOURCE`` contains ``images/`` and ``annotations.json`` in
COCO format. For each format that its tool exports, the driver writes a folder ``OUTPUT/FORMAT``.
"""

import json
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

SOURCE, OUTPUT = (Path(argument) for argument in sys.argv[1:])
COCO = SOURCE / "annotations.json"
IMAGES = SOURCE / "images"


class Image(NamedTuple):
    """An image with its objects: class name, and x, y, width, height in pixels."""

    name: str
    width: int
    height: int
    objects: list[tuple[str, list[float]]]

    @property
    def path(self) -> Path:
        """The file."""
        return IMAGES / self.name


def read_source() -> tuple[list[Image], list[str]]:
    """Return the images and the class names."""
    content = json.loads(COCO.read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    images = []
    for record in content["images"]:
        own = [a for a in content["annotations"] if a["image_id"] == record["id"]]
        objects = [(names[a["category_id"]], a["bbox"]) for a in own]
        images.append(Image(record["file_name"], record["width"], record["height"], objects))
    return images, list(names.values())


def copy_images(folder: Path) -> None:
    """Copy all images to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in IMAGES.iterdir():
        shutil.copy(path, folder / path.name)


def export(formats: Mapping[str, Callable[[Path], Any]]) -> None:
    """Call the function of each format with a new folder; a failure is written to ``failure.txt`` there."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "formats.json").write_text(json.dumps(list(formats)))
    for name, write in formats.items():
        folder = OUTPUT / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            write(folder)
        except Exception as error:
            traceback.print_exc()
            shutil.rmtree(folder)
            folder.mkdir()
            text = str(error).strip() or "no message"
            (folder / "failure.txt").write_text(f"{type(error).__name__}: {text.splitlines()[0][:200]}")
