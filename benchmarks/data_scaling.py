"""Time and memory of dataset check, statistics and metrics by the number of images.

Each step runs in its own process on generated annotations, with about seven objects per image. Image files are links
to one PNG, of which the check reads the header.

    python benchmarks/data_scaling.py --images 1000 10000 100000
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
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from libradet.data.batch import Batch
from libradet.data.formats.coco import to_coco
from libradet.data.read import check, read
from libradet.data.records import Dataset
from libradet.data.stats import compute_stats
from libradet.evaluation.evaluator import CocoEvaluator
from libradet.structures import Detections
from libradet.utils.tables import markdown_table

CLASSES = 80
OBJECTS = 7
DETECTIONS = 20
WIDTH, HEIGHT = 640, 480
STEPS = ("check", "stats", "metrics")


def generate(folder: Path, count: int) -> None:
    """Write a COCO dataset whose images are links."""
    generator = np.random.default_rng(count)
    image_folder = folder / "images"
    image_folder.mkdir(parents=True)
    Image.new("L", (WIDTH, HEIGHT)).save(folder / "one.png")
    for i in range(count):
        # Symbolic links, since file systems limit the number of hard links to a file.
        os.symlink("../one.png", image_folder / f"{i:012}.png")
    owner = np.repeat(np.arange(count), generator.poisson(OBJECTS, count))
    xywh = random_boxes(generator, len(owner))
    labels = generator.integers(1, CLASSES + 1, len(owner))
    annotations = [
        {"id": i + 1, "image_id": o, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
        for i, (o, c, b) in enumerate(zip(owner.tolist(), labels.tolist(), xywh.round(2).tolist(), strict=True))
    ]
    images = [{"id": i, "file_name": f"{i:012}.png", "width": WIDTH, "height": HEIGHT} for i in range(count)]
    categories = [{"id": c, "name": f"class {c}"} for c in range(1, CLASSES + 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))


def random_boxes(generator: np.random.Generator, count: int) -> np.ndarray:
    """Return boxes (xywh) of all sizes inside the image."""
    side = np.exp(generator.uniform(np.log(8), np.log(400), (count, 2))).clip(max=[WIDTH - 1, HEIGHT - 1])
    corner = generator.uniform(0, 1, (count, 2)) * ([WIDTH, HEIGHT] - side)
    return np.concatenate([corner, side], 1)


def random_detections(dataset: Dataset, batch_size: int = 4) -> Iterator[tuple[Detections, Batch]]:
    """Yield detections of a mediocre detector with their batches: each object with some error, and false positives."""
    generator = np.random.default_rng(0)
    for start in range(0, len(dataset), batch_size):
        images = dataset.images[start : start + batch_size]
        count = len(images)
        xywh = random_boxes(generator, count * DETECTIONS).reshape(count, DETECTIONS, 4)
        boxes = np.concatenate([xywh[..., :2], xywh[..., :2] + xywh[..., 2:]], 2)
        labels = generator.integers(0, CLASSES, (count, DETECTIONS))
        for row, image in enumerate(images):
            hit = min(len(image.labels), DETECTIONS)
            boxes[row, :hit] = image.boxes[:hit] + generator.normal(0, 4, (hit, 4))
            labels[row, :hit] = image.labels[:hit]
        scores = torch.from_numpy(generator.random((count, DETECTIONS))).float()
        valid = torch.ones(count, DETECTIONS, dtype=torch.bool)
        no_labels = torch.full((count, 1), -1)
        detections = Detections(torch.from_numpy(boxes).float(), scores, torch.from_numpy(labels), valid)
        yield (
            detections,
            Batch(
                images=torch.zeros(count, 3, 1, 1),
                sizes=torch.full((count, 2), 1),
                boxes=torch.zeros(count, 1, 4),
                labels=no_labels,
                crowd=no_labels > 0,
                index=torch.arange(start, start + count),
                scales=torch.ones(count, 2),
            ),
        )


def measure(step: str, folder: Path, with_pycocotools: bool) -> dict[str, float]:
    """Return the seconds of a step and the peak memory of the process in MiB."""
    if step == "check":
        return timed(lambda: check(folder))
    dataset = read(folder, masks=False)[0]
    if step == "stats":
        return timed(lambda: compute_stats(dataset))
    evaluator = CocoEvaluator(dataset)
    batches = list(random_detections(dataset))

    def evaluate() -> None:
        for detections, batch in batches:
            evaluator.update(detections, batch)
        evaluator.compute()

    result = timed(evaluate)
    return result | ({"pycocotools": time_pycocotools(dataset, evaluator)} if with_pycocotools else {})


def time_pycocotools(dataset: Dataset, evaluator: CocoEvaluator) -> float:
    """Return the seconds of pycocotools for the same metrics."""
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


def timed(function: Callable[[], object]) -> dict[str, float]:
    """Call the function; return seconds and peak memory of the process in MiB."""
    start = time.perf_counter()
    function()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "peak": peak / 1024}


def run_step(step: str, folder: Path, with_pycocotools: bool) -> dict[str, float]:
    """Run :func:`measure` in its own process."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
    command += ["--pycocotools", str(int(with_pycocotools))]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def main() -> None:
    """Measure one step (used internally), or print a table of all steps and sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10000, 100000])
    parser.add_argument("--pycocotools", type=int, default=10000, help="compare with it up to this number of images")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        print(json.dumps(measure(args.step, args.folder, bool(args.pycocotools))))
        return
    print(f"{platform.machine()}, load {os.getloadavg()[0]:.1f}\n")
    columns = ["step", "images", "seconds", "per image", "/ the first", "peak MiB", "pycocotools"]
    print(markdown_table(columns, []))
    first: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as root:
        for count in args.images:
            folder = Path(root, str(count))
            generate(folder, count)
            for step in STEPS:
                result = run_step(step, folder, count <= args.pycocotools)
                per_image = result["seconds"] / count
                ratio = per_image / first.setdefault(step, per_image)
                theirs = f"{result['pycocotools'] / result['seconds']:.0f}x" if "pycocotools" in result else ""
                print(
                    f"| {step} | {count:,} | {result['seconds']:.2f} | {per_image * 1e6:.0f} us | {ratio:.2f} "
                    f"| {result['peak']:.0f} | {theirs} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
