"""Processor seconds of ultralytics' training loader, in an environment of its own (:mod:`benchmarks.peers`).

Images are decoded, resized, flipped and batched as by the others; mosaic, colors and affine transforms are off.

python benchmarks/ultralytics_loader.py FOLDER SIZE ROUNDS
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

BATCH = 4
UNCHANGED = ("mosaic", "mixup", "copy_paste", "hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear")


def write_labels(folder: Path) -> None:
    """Write the COCO annotations in ``folder`` as ultralytics' text files, beside links to the images."""
    content = json.loads((folder / "_annotations.coco.json").read_text())
    rows: dict[int, list[str]] = {}
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for annotation in content["annotations"]:
        (width, height), (x, y, w, h) = sizes[annotation["image_id"]], annotation["bbox"]
        box = (x + w / 2) / width, (y + h / 2) / height, w / width, h / height
        row = " ".join(map(str, (annotation["category_id"], *box)))
        rows.setdefault(annotation["image_id"], []).append(row)
    for part in ("images", "labels"):
        (folder / part).mkdir(exist_ok=True)
    for image in content["images"]:
        link = folder / "images" / image["file_name"]
        if not link.exists():
            link.symlink_to(folder / image["file_name"])
        (folder / "labels" / link.name).with_suffix(".txt").write_text("\n".join(rows[image["id"]]) + "\n")


def measure(folder: Path, size: int, rounds: int) -> list[float]:
    """Return the seconds of each round; the first one, warm-up, is left out."""
    import cv2
    from ultralytics.cfg import get_cfg
    from ultralytics.data.build import build_yolo_dataset

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    write_labels(folder)
    settings = get_cfg(overrides={"imgsz": size, "fliplr": 0.5} | dict.fromkeys(UNCHANGED, 0.0))
    data = {"names": {i: str(i) for i in range(80)}, "nc": 80, "channels": 3}
    dataset = build_yolo_dataset(settings, str(folder / "images"), BATCH, data, mode="train")
    # Images of the last eight batches stay in memory, for mosaics: here that would be all, and none would be decoded.
    dataset.max_buffer_length = 0
    seconds = []
    for round_ in range(rounds + 1):
        batches = iter(DataLoader(dataset, BATCH, shuffle=True, collate_fn=dataset.collate_fn, drop_last=True))
        start = time.process_time()
        for batch in batches:
            assert len(batch["img"]) == BATCH
        if round_:
            seconds.append(time.process_time() - start)
    return seconds


if __name__ == "__main__":
    os.environ |= {"YOLO_OFFLINE": "True", "YOLO_CONFIG_DIR": sys.argv[1], "YOLO_VERBOSE": "False"}
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
