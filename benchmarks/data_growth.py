"""What grows with the number of images, and how fast: check, statistics and metrics of a dataset.

Each step runs in a process of its own on generated annotations, about seven objects to an image. Image
files are links to one PNG, of which the check reads the header.

    python benchmarks/data_growth.py --images 1000 10000 100000
"""

import argparse
import contextlib
import io
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from libradet.data.batch import Batch
from libradet.data.read import check, read, to_coco
from libradet.data.records import Dataset
from libradet.data.stats import measure as statistics
from libradet.evaluation.coco_evaluator import CocoEvaluator
from libradet.inference.detections import Detections

CLASSES = 80
OBJECTS = 7
DETECTIONS = 20
WIDTH, HEIGHT = 640, 480
STEPS = ("check", "stats", "metrics")


def generate(folder: Path, count: int) -> None:
    """A COCO dataset with links for images."""
    generator = np.random.default_rng(count)
    image_folder = folder / "images"
    image_folder.mkdir(parents=True)
    Image.new("L", (WIDTH, HEIGHT)).save(folder / "one.png")
    for i in range(count):
        # A file has only so many names.
        os.symlink("../one.png", image_folder / f"{i:012}.png")
    owner = np.repeat(np.arange(count), generator.poisson(OBJECTS, count))
    xywh = boxes(generator, len(owner))
    labels = generator.integers(1, CLASSES + 1, len(owner))
    annotations = [
        {"id": i + 1, "image_id": o, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
        for i, (o, c, b) in enumerate(zip(owner.tolist(), labels.tolist(), xywh.round(2).tolist(), strict=True))
    ]
    images = [{"id": i, "file_name": f"{i:012}.png", "width": WIDTH, "height": HEIGHT} for i in range(count)]
    categories = [{"id": c, "name": f"class {c}"} for c in range(1, CLASSES + 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))


def boxes(generator: np.random.Generator, count: int) -> np.ndarray:
    """Boxes (xywh) of all sizes inside the image."""
    side = np.exp(generator.uniform(np.log(8), np.log(400), (count, 2))).clip(max=[WIDTH - 1, HEIGHT - 1])
    corner = generator.uniform(0, 1, (count, 2)) * ([WIDTH, HEIGHT] - side)
    return np.concatenate([corner, side], 1)


def detections(dataset: Dataset, batch: int = 4):
    """What a middling detector would find, in batches: each object with some error, and false ones."""
    generator = np.random.default_rng(0)
    for start in range(0, len(dataset), batch):
        image_folder = dataset.image_folder[start : start + batch]
        count = len(image_folder)
        xywh = boxes(generator, count * DETECTIONS).reshape(count, DETECTIONS, 4)
        found = np.concatenate([xywh[..., :2], xywh[..., :2] + xywh[..., 2:]], 2)
        labels = generator.integers(0, CLASSES, (count, DETECTIONS))
        for row, image in enumerate(image_folder):
            hit = min(len(image.labels), DETECTIONS)
            found[row, :hit] = image.boxes[:hit] + generator.normal(0, 4, (hit, 4))
            labels[row, :hit] = image.labels[:hit]
        scores = torch.from_numpy(generator.random((count, DETECTIONS))).float()
        valid = torch.ones(count, DETECTIONS, dtype=torch.bool)
        no_boxes, no_labels = torch.zeros(count, 1, 4), torch.full((count, 1), -1)
        yield (
            Detections(torch.from_numpy(found).float(), scores, torch.from_numpy(labels), valid),
            Batch(
                *(torch.zeros(count, 3, 1, 1), torch.full((count, 2), 1), no_boxes, no_labels, no_labels > 0),
                index=torch.arange(start, start + count),
                scales=torch.ones(count, 2),
            ),
        )


def measure(step: str, folder: Path, pycocotools: bool) -> dict[str, float]:
    """Seconds of a step, and the peak memory of the process in MiB."""
    if step == "check":
        return timed(lambda: check(folder))
    dataset = read(folder, masks=False)[0]
    if step == "stats":
        return timed(lambda: statistics(dataset))
    evaluator = CocoEvaluator(dataset)
    batches = list(detections(dataset))

    def evaluate() -> None:
        for found, batch in batches:
            evaluator.update(found, batch)
        evaluator.compute()

    result = timed(evaluate)
    return result | ({"pycocotools": theirs(dataset, evaluator)} if pycocotools else {})


def theirs(dataset: Dataset, evaluator: CocoEvaluator) -> float:
    """Seconds that pycocotools takes for the same numbers."""
    results = evaluator.results()
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = to_coco(dataset)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return time.perf_counter() - start


def timed(step) -> dict[str, float]:
    """Run a step."""
    start = time.perf_counter()
    step()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "peak": peak / 1024}


def main() -> None:
    """Measure one step (used internally), or print a table of all steps and sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10000, 100000])
    parser.add_argument("--pycocotools", type=int, default=10000, help="Compare with it up to so many images.")
    parser.add_argument("--step", choices=STEPS)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.step:
        print(json.dumps(measure(args.step, args.folder, bool(args.pycocotools))))
        return
    print(f"{platform.machine()}, load {os.getloadavg()[0]:.1f}\n")
    print("| step | images | seconds | per image | × first | peak MiB | pycocotools |\n|---|---|---|---|---|---|---|")
    first: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        for count in args.image_folder:
            folder = Path(place, str(count))
            generate(folder, count)
            for step in STEPS:
                options = {"step": step, "folder": folder, "pycocotools": int(count <= args.pycocotools)}
                words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
                command = [sys.executable, __file__, *words]
                run = subprocess.run(command, check=True, capture_output=True, text=True)
                result = json.loads(run.stdout.splitlines()[-1])
                each = result["seconds"] / count
                ratio = each / first.setdefault(step, each)
                theirs = f"{result['pycocotools'] / result['seconds']:.0f} ×" if "pycocotools" in result else ""
                print(
                    f"| {step} | {count:,} | {result['seconds']:.2f} | {each * 1e6:.0f} µs | {ratio:.2f} "
                    f"| {result['peak']:.0f} | {theirs} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
