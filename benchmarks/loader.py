"""Images per second and core of our loader, and of torchvision's reference pipeline for detectors.

Both load the same images in this process with one thread, in turns, batch of four by batch of four.
Theirs is that of torchvision's training script: Pillow, `v2` (tensor, flip, float), and the resizing and
batching of its `GeneralizedRCNNTransform`; its normalization is left out, since ours happens in the detector.

    python benchmarks/loader.py coco_cc bccd deeppcb --sizes 800,1333 320,533
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import v2

from libradet.data.loading.loader import make_loader
from libradet.data.read import read
from libradet.data.records import Dataset

BATCH = 4


class Reference(torch.utils.data.Dataset):
    """A dataset as torchvision's training script reads it."""

    def __init__(self, dataset: Dataset) -> None:
        self.images = dataset.images
        self.change = v2.Compose(
            [v2.ToImage(), v2.RandomHorizontalFlip(0.5), v2.ToDtype(torch.float, scale=True), v2.ToPureTensor()]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple:
        record = self.images[index]
        image = Image.open(record.path).convert("RGB")
        canvas = (record.height, record.width)
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(record.boxes), format="XYXY", canvas_size=canvas)
        return self.change(image, {"boxes": boxes, "labels": torch.from_numpy(record.labels)})


def reference(dataset: Dataset, size: tuple[int, int]) -> Iterator:
    """Batches of the reference pipeline."""
    model_side = GeneralizedRCNNTransform(size[0], size[1], [0.0] * 3, [1.0] * 3)

    def gather(samples: list) -> tuple:
        resized = [model_side.resize(image, target) for image, target in samples]
        return model_side.batch_images([image for image, _ in resized]), [target for _, target in resized]

    return iter(DataLoader(Reference(dataset), BATCH, shuffle=True, collate_fn=gather, drop_last=True))


def ours(dataset: Dataset, size: tuple[int, int], epoch: int) -> Iterator:
    """Batches of our loader."""
    loader = make_loader(dataset, size=size, batch_size=BATCH, training=True, divisor=64, epoch=epoch)
    return iter(loader)


def seconds(step: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def compare(folder: Path, size: tuple[int, int], images: int, rounds: int) -> str:
    """A row of the table: medians over rounds, each of which takes batches in turns."""
    dataset = read(folder, "train")[0]
    dataset = replace(dataset, images=dataset.images[:images])
    totals = []
    for number in range(rounds + 1):
        a, b = ours(dataset, size, number), reference(dataset, size)
        pairs = [(seconds(lambda a=a: next(a)), seconds(lambda b=b: next(b))) for _ in range(len(dataset) // BATCH)]
        totals.append(tuple(map(sum, zip(*pairs, strict=True))))
    mine, theirs = zip(*totals[1:], strict=True)
    ratios = sorted(b / a for a, b in totals[1:])
    count = len(dataset) // BATCH * BATCH
    return (
        f"| {folder.name} | {size[0]} × {size[1]} | {count / statistics.median(mine):.0f} "
        f"| {count / statistics.median(theirs):.0f} "
        f"| {statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f}) |"
    )


def main() -> None:
    """Print a table: images per second of both, and their ratio (median, least and most of all rounds)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--sizes", nargs="+", default=["800,1333", "320,533"])
    parser.add_argument("--images", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, torch {torch.__version__}, 1 thread, load {os.getloadavg()[0]:.1f}\n")
    print("| data | resized to | ours, images/s | reference, images/s | ratio |\n|---|---|---|---|---|")
    for folder in args.data:
        for text in args.sizes:
            short, long = map(int, text.split(","))
            print(compare(folder, (short, long), args.images, args.rounds), flush=True)


if __name__ == "__main__":
    main()
