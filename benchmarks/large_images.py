"""Memory and time of tiled inference on a large image, compared with a batch of tiles that is in memory already.

    python benchmarks/large_images.py
    python benchmarks/large_images.py --size 12000 9000 --backbone resnet50
    python benchmarks/large_images.py --write_data DIR --images 48 12

The first command, of about ten minutes on two cores, writes a TIFF file of random tiles and measures, each in a
process of its own: the step of a batch of tiles ("batch"); `evaluate` on a dataset of that one image; and `predict`.
"growth" is the growth of the peak resident set beyond that of the process with its model loaded. The image is never in
memory as a whole, so the growth of the other two is to be at most 1.2 times that of the batch, and their time at most
1.05 times the number of batches times the median step. Each line is printed as soon as it is measured, the time that
remains after the first one.

The third writes a dataset of large images with small objects, made of synthetic scenes side by side.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tifffile
import torch
from numpy import ndarray
from PIL import Image

from libradet.data.batch import Batch
from libradet.data.batching import smallest_padded_sizes
from libradet.data.records import Dataset, ImageRecord
from libradet.data.synthesis.synthetic import synthesize
from libradet.data.transforms.resize import target_size
from libradet.evaluation.evaluate import evaluate
from libradet.geometry.tiles import as_tiles, count_tiles
from libradet.inference.run_model import eval_mode, run_model
from libradet.models.build import create_model
from libradet.models.detector import Detector
from libradet.models.zoo import MODELS, make_config

MAX_MEMORY, MAX_TIME = 1.2, 1.05
"""Targets, as multiples of the batch."""

TIFF_TILE = 256
LAYOUTS = {
    "tiles": {"tile": (TIFF_TILE, TIFF_TILE)},
    "deflate": {"tile": (TIFF_TILE, TIFF_TILE), "compression": "deflate"},
    "jpeg": {"tile": (TIFF_TILE, TIFF_TILE), "compression": "jpeg"},
    "strips": {},
}

SCENE, GRID = (160, 128), 8
"""Width and height of the scenes of a large image, and how many of them are in a row and in a column."""


def write_tiff(path: Path, width: int, height: int, layout: str) -> None:
    """Write an RGB image of random blocks, one tile or strip in memory at a time."""

    def blocks() -> Iterator[ndarray]:
        rng = np.random.default_rng(0)
        for _ in range(-(-height // TIFF_TILE) * -(-width // TIFF_TILE)):
            coarse = rng.integers(0, 256, (TIFF_TILE // 16, TIFF_TILE // 16, 3), np.uint8)
            yield coarse.repeat(16, 0).repeat(16, 1)

    if layout != "strips":
        options = LAYOUTS[layout]
        tifffile.imwrite(path, blocks(), shape=(height, width, 3), dtype="uint8", photometric="rgb", **options)
        return
    image = tifffile.memmap(path, shape=(height, width, 3), dtype="uint8", photometric="rgb")
    rng = np.random.default_rng(0)
    for top in range(0, height, TIFF_TILE):
        rows = image[top : top + TIFF_TILE]
        rows[:] = rng.integers(0, 256, (1, width, 3), np.uint8)
    image.flush()


def build_model(args: argparse.Namespace) -> Detector:
    """Return an untrained detector in evaluation mode."""
    torch.manual_seed(0)
    config = make_config(args.model, backbone=args.backbone)
    config.image.size = tuple(args.model_size)
    return create_model(config=config, class_names=[f"class {number}" for number in range(80)]).eval()


def random_batch(model: Detector, side: int, batch_size: int) -> Batch:
    """Return a batch of random tiles of ``side`` pixels, resized and padded as those of an image are."""
    height, width = target_size(side, side, model.image_size)
    (padded,) = smallest_padded_sizes(np.array([[height, width]]), model.size_divisible)
    return Batch(
        images=torch.randint(0, 256, (batch_size, 3, *padded), dtype=torch.uint8),
        sizes=torch.tensor([[height, width]] * batch_size),
        boxes=torch.zeros(batch_size, 0, 4),
        labels=torch.zeros(batch_size, 0, dtype=torch.int64),
        crowd=torch.zeros(batch_size, 0, dtype=torch.bool),
    )


def measure_batch(model: Detector, args: argparse.Namespace) -> float:
    """Return the median seconds of a step."""
    batch = random_batch(model, int(args.tiles[0]), args.batch_size)
    seconds = []
    with eval_mode(model):
        for _ in range(args.steps):
            start = time.perf_counter()
            run_model(model, batch)
            seconds.append(time.perf_counter() - start)
    return median(seconds)


def measure_evaluate(model: Detector, args: argparse.Namespace) -> float:
    """Return the seconds of `evaluate` on a dataset of the image."""
    width, height = args.size
    boxes = np.array([[100, 100, 130, 140]], np.float32)
    labels, area = np.zeros(1, np.int64), np.array([1200.0])
    record = ImageRecord(1, args.image, width, height, boxes, labels, labels.astype(bool), area, labels + 1)
    dataset = Dataset(args.image.parent, "val", [record], [1], [model.class_names[0]])
    start = time.perf_counter()
    evaluate(model, dataset, tiles=args.tiles, batch_size=args.batch_size, progress=False)
    return time.perf_counter() - start


def measure_predict(model: Detector, args: argparse.Namespace) -> float:
    """Return the seconds of `predict` on the image."""
    start = time.perf_counter()
    model.predict(args.image, tiles=args.tiles, batch_size=args.batch_size)
    return time.perf_counter() - start


MEASUREMENTS = {"batch": measure_batch, "evaluate": measure_evaluate, "predict": measure_predict}


def run_measurement(args: argparse.Namespace) -> dict[str, float]:
    """Return seconds and growth of one measurement in this process."""
    torch.set_num_threads(args.threads)
    model = build_model(args)
    before = resident("VmRSS")
    seconds = MEASUREMENTS[args.measure](model, args)
    return {"seconds": seconds, "growth": resident("VmHWM") - before}


def resident(field: str) -> int:
    """Return the resident set of this process (VmRSS) or its peak (VmHWM) in bytes; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure_in_process(name: str, image: Path, args: argparse.Namespace) -> dict[str, float]:
    """Run one measurement in a process of its own."""
    command = [sys.executable, __file__, "--measure", name, "--image", str(image)]
    for option in ("model", "backbone", "size", "model_size", "tiles", "batch_size", "threads", "steps"):
        value = getattr(args, option)
        command += [f"--{option}", *map(str, value if isinstance(value, list) else [value])]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Measure all in turns, print each as it is measured, and the smallest of several rounds at the end."""
    width, height = args.size
    batches = -(-count_tiles(height, width, as_tiles(args.tiles)) // args.batch_size)
    results: dict[str, Any] = {"batches": batches}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for layout in args.layouts:
            image = Path(folder) / f"{layout}.tif"
            write_tiff(image, width, height, layout)
            print(f"\n{layout}: {width} x {height} pixels, {batches} batches of {args.batch_size} tiles", flush=True)
            rounds = [measure_round(image, batches, args) for _ in range(args.rounds)]
            image.unlink()
            best = {n: {k: min(r[n][k] for r in rounds) for k in ("seconds", "growth")} for n in rounds[0]}
            results[layout] = best
            if args.rounds > 1:
                print(f"  smallest of {args.rounds} rounds:")
                for name in best:
                    print_measurement(name, best, batches)
    return results


def measure_round(image: Path, batches: int, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Run each measurement once."""
    results: dict[str, dict[str, float]] = {}
    for name in ("batch", *args.parts):
        results[name] = measure_in_process(name, image, args)
        print_measurement(name, results, batches)
        if name == "batch":
            minutes = len(args.parts) * batches * results[name]["seconds"] / 60
            print(f"  {' and '.join(args.parts)} will last about {minutes:.0f} minutes", flush=True)
    return results


def print_measurement(name: str, results: dict[str, dict[str, float]], batches: int) -> None:
    """Print one line; that of "batch" has to be measured already."""
    seconds, growth = results[name]["seconds"], results[name]["growth"]
    line = f"  {name:9} {seconds:8.2f} s  {growth / 1e6:7.0f} MB"
    if name != "batch":
        step = results["batch"]
        slower, larger = seconds / (batches * step["seconds"]), growth / step["growth"]
        line += (
            f": {slower:.3f} times the steps (target {MAX_TIME}), {larger:.3f} times the memory (target {MAX_MEMORY})"
        )
    print(line, flush=True)


def write_dataset(folder: Path, train: int, val: int) -> None:
    """Write ``train`` and ``val`` images of GRID x GRID synthetic scenes each, with their boxes."""
    counts = {"train": train, "val": val}
    (folder / "images").mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=folder) as scenes:
        parts = {split: count * GRID**2 for split, count in counts.items()}
        synthesize(Path(scenes) / "scenes", **parts, size=SCENE, classes=5)
        for split, count in counts.items():
            records = json.loads((Path(scenes) / "scenes" / f"{split}.json").read_text())
            combined = _combine(records, Path(scenes) / "scenes" / "images", folder / "images", split, count)
            (folder / f"{split}.json").write_text(json.dumps(combined))


def _combine(records: dict[str, Any], scenes: Path, images: Path, split: str, count: int) -> dict[str, Any]:
    width, height = SCENE
    listed, annotations = [], []
    position = {image["id"]: row for row, image in enumerate(records["images"])}
    for number in range(count):
        canvas = Image.new("RGB", (width * GRID, height * GRID))
        for cell, scene in enumerate(records["images"][number * GRID**2 : (number + 1) * GRID**2]):
            with Image.open(scenes / scene["file_name"]) as part:
                canvas.paste(part, (cell % GRID * width, cell // GRID * height))
        name = f"{split}_{number:05d}.jpg"
        canvas.save(images / name, quality=92)
        listed.append({"id": number + 1, "file_name": name, "width": canvas.width, "height": canvas.height})
    for annotation in records["annotations"]:
        number, cell = divmod(position[annotation["image_id"]], GRID**2)
        x, y, *sides = annotation["bbox"]
        box = [x + cell % GRID * width, y + cell // GRID * height, *sides]
        kept = {key: annotation[key] for key in ("id", "category_id", "area", "iscrowd")}
        annotations.append(kept | {"image_id": number + 1, "bbox": box})
    return {"images": listed, "annotations": annotations, "categories": records["categories"]}


def parse_args() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="libra_faster_rcnn", choices=sorted(MODELS))
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, nargs=2, default=[10_000, 8_000], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--model_size", type=int, nargs=2, default=[640, 640], help="that each tile is resized to")
    parser.add_argument("--tiles", type=float, nargs=2, default=[640, 0.2], metavar=("SIZE", "OVERLAP"))
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--layouts", nargs="+", default=["tiles"], choices=LAYOUTS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=20, help="steps that time and memory of a batch are of")
    parser.add_argument("--parts", nargs="+", choices=("evaluate", "predict"), default=["evaluate", "predict"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="for the image (default: the system's temporary folder)")
    parser.add_argument("--json", type=Path, help="write the results")
    parser.add_argument("--write_data", type=Path, metavar="DIR", help="write a dataset in place of measuring")
    parser.add_argument("--images", type=int, nargs=2, default=[48, 12], metavar=("TRAIN", "VAL"))
    parser.add_argument("--measure", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    parser.add_argument("--image", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    args = parse_args()
    if args.write_data:
        write_dataset(args.write_data, *args.images)
    elif args.measure:
        print(json.dumps(run_measurement(args)))
    else:
        results = compare(args)
        if args.json:
            args.json.write_text(json.dumps(results, indent=1))
