"""Images per second and core of libradet's data loader and of torchvision's reference pipeline for detectors.

Both load the same images in this process with one thread, in turns, in batches of four; processor time is measured. The
reference is that of torchvision's training script: Pillow, `v2` (tensor, flip, float), and the resizing and batching of
its `GeneralizedRCNNTransform`, without normalization, which libradet's detector does.

    python -m benchmarks.loader coco_cc bccd deeppcb --sizes 800,1333 320,533
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import v2

from benchmarks.cases import Case
from benchmarks.results import format_range, ratios
from benchmarks.synthetic_inputs import CLASSES, make_inputs
from libradet.data.loader import make_loader
from libradet.data.read import read
from libradet.data.records import Dataset

BATCH = 4
FILES = ((480, 640, ((480, 640), (800, 1333))), (1080, 1920, ((480, 640),)))
"""Height and width of files, and (short, long) sides to which they are resized."""
QUALITY = 85
"""Of the JPEG files; those of 480x640 then have 155 KB, about as many as in COCO."""


class ReferenceDataset(torch.utils.data.Dataset):
    """Dataset as in torchvision's training script."""

    def __init__(self, dataset: Dataset) -> None:
        self.images = dataset.images
        self.transform = v2.Compose(
            [v2.ToImage(), v2.RandomHorizontalFlip(0.5), v2.ToDtype(torch.float, scale=True), v2.ToPureTensor()]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple:
        record = self.images[index]
        image = Image.open(record.path).convert("RGB")
        canvas = (record.height, record.width)
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(record.boxes), format="XYXY", canvas_size=canvas)
        return self.transform(image, {"boxes": boxes, "labels": torch.from_numpy(record.labels)})


def reference(dataset: Dataset, size: tuple[int, int]) -> Iterator:
    """Return an iterator over batches of the reference pipeline."""
    transform = GeneralizedRCNNTransform(size[0], size[1], [0.0] * 3, [1.0] * 3)

    def collate(samples: list) -> tuple:
        resized = [transform.resize(image, target) for image, target in samples]
        return transform.batch_images([image for image, _ in resized]), [target for _, target in resized]

    return iter(DataLoader(ReferenceDataset(dataset), BATCH, shuffle=True, collate_fn=collate, drop_last=True))


def ours(dataset: Dataset, size: tuple[int, int], epoch: int) -> Iterator:
    """Return an iterator over batches of libradet's loader."""
    loader = make_loader(dataset, size=size, batch_size=BATCH, training=True, size_divisible=64, epoch=epoch)
    return iter(loader)


def time_call(function: Callable[[], object]) -> float:
    """Return the processor seconds of one call: images per second and core, whatever else runs on the machine."""
    start = time.process_time()
    function()
    return time.process_time() - start


def compare(dataset: Dataset, size: tuple[int, int], rounds: int) -> dict[str, list[float]]:
    """Return seconds of both in each round, in which both load batches in turns."""
    num_batches = len(dataset) // BATCH
    seconds: dict[str, list[float]] = {"ours": [], "torchvision": []}
    for round_ in range(rounds + 1):
        iterators = {"ours": ours(dataset, size, round_), "torchvision": reference(dataset, size)}
        totals = dict.fromkeys(iterators, 0.0)
        for _ in range(num_batches):
            for name, batches in iterators.items():
                totals[name] += time_call(lambda batches=batches: next(batches))
        if round_ > 0:  # the first round is warm-up
            for name, total in totals.items():
                seconds[name].append(total)
    return seconds


def measure_loader(folder: Path, rounds: int, images: int, ultralytics: str | None = None) -> list[dict[str, Any]]:
    """Measure the loading of generated JPEG files, in one thread.

    Args:
        ultralytics: Python of an environment with ultralytics, which is measured as well.

    Returns:
        for each size of files and each size after resizing: number of ``images`` and ``seconds`` by library, one
        value per round.
    """
    torch.set_num_threads(1)
    results = []
    for height, width, sizes in FILES:
        source = folder / f"{height}x{width}"
        mean_bytes = write_dataset(source, images, height, width)
        dataset = read(source, "train")[0]
        for size in sizes:
            result = {"file": [height, width], "bytes": mean_bytes, "size": size, "images": images // BATCH * BATCH}
            seconds = compare(dataset, size, rounds)
            if ultralytics:
                arguments = [str(source / "train"), str(max(size)), str(rounds)]
                command = [ultralytics, str(Path(__file__).with_name("ultralytics_loader.py")), *arguments]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                seconds["ultralytics"] = json.loads(output.splitlines()[-1])
            results.append(result | {"seconds": seconds})
    return results


def write_dataset(folder: Path, images: int, height: int, width: int) -> int:
    """Write JPEG files with as many bytes per pixel as those of COCO, with objects; return their mean bytes."""
    case = Case("train", "faster_rcnn", (height, width), 1)
    (folder / "train").mkdir(parents=True)
    records, annotations, total = [], [], 0
    for i in range(images):
        inputs, file = make_inputs(case, seed=i), folder / "train" / f"{i}.jpg"
        Image.fromarray(inputs.images[0].permute(1, 2, 0).numpy()).save(file, quality=QUALITY)
        total += file.stat().st_size
        records.append({"id": i, "file_name": file.name, "height": height, "width": width})
        for box, label in zip(inputs.boxes[0].tolist(), inputs.labels[0].tolist(), strict=True):
            x, y, right, bottom = box
            bbox = [x, y, right - x, bottom - y]
            row = {"id": len(annotations) + 1, "image_id": i, "category_id": label, "bbox": bbox, "iscrowd": 0}
            annotations.append(row | {"area": bbox[2] * bbox[3]})
    categories = [{"id": label, "name": f"class {label}"} for label in range(CLASSES)]
    content = {"images": records, "annotations": annotations, "categories": categories}
    (folder / "train" / "_annotations.coco.json").write_text(json.dumps(content))
    return total // images


def images_per_second(images: int, seconds: list[float]) -> float:
    """Return the median over rounds."""
    return images / statistics.median(seconds)


def main() -> None:
    """Print a table: images per second of both, and their ratio (median and range of all rounds)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--sizes", nargs="+", default=["800,1333", "320,533"])
    parser.add_argument("--images", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, torch {torch.__version__}, 1 thread, load {os.getloadavg()[0]:.1f}\n")
    print("| dataset | size | libradet, images/s | reference, images/s | ratio |\n|---|---|---|---|---|")
    for folder in args.data:
        dataset = read(folder, "train")[0]
        dataset = replace(dataset, images=dataset.images[: args.images])
        for text in args.sizes:
            short, long = map(int, text.split(","))
            seconds = compare(dataset, (short, long), args.rounds)
            speeds = [images_per_second(len(dataset) // BATCH * BATCH, values) for values in seconds.values()]
            ratio = format_range(ratios(seconds["torchvision"], seconds["ours"]))
            print(f"| {folder.name} | {short} x {long} | {speeds[0]:.0f} | {speeds[1]:.0f} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
