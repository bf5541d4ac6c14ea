"""labelformat: COCO, YOLO, Pascal VOC and labelme, from COCO."""

import subprocess
import sys
from functools import partial
from pathlib import Path

from common import COCO, copy_images, export


def write(folder: Path, kind: str, images: str, options: dict[str, str]) -> None:
    """Call the command."""
    copy_images(folder / images)
    command = [str(Path(sys.executable).with_name("labelformat")), "convert", "--task", "object-detection"]
    command += ["--input-format", "coco", "--input-file", str(COCO), "--output-format", kind]
    command += [word for name, value in options.items() for word in (f"--{name}", value.format(folder=folder))]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise ValueError(result.stderr.strip().splitlines()[-1])


YOLO = {"output-file": "{folder}/data.yaml", "output-split": "train"}
export(
    {
        "COCO": partial(write, kind="coco", images="images", options={"output-file": "{folder}/annotations.json"}),
        "YOLO": partial(write, kind="yolov8", images="images", options=YOLO),
        "Pascal VOC": partial(
            write, kind="pascalvoc", images="JPEGImages", options={"output-folder": "{folder}/Annotations"}
        ),
    }
)
