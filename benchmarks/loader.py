"""Images per second and core of libradet's data loader and of torchvision's reference pipeline for detectors.

Both load the same images in this process with one thread, in turns, in batches of four. The reference is that of
torchvision's training script: Pillow, `v2` (tensor, flip, float), and the resizing and batching of its
`GeneralizedRCNNTransform`, without normalization, which libradet's detector does.

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

from libradet.data.loader import make_loader
from libradet.data.read import read
from libradet.data.records import Dataset

BATCH = 4


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
    """Return the seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(folder: Path, size: tuple[int, int], images: int, rounds: int) -> str:
    """Return a row of the table: medians over rounds, in which both load batches in turns."""
    dataset = read(folder, "train")[0]
    dataset = replace(dataset, images=dataset.images[:images])
    num_batches = len(dataset) // BATCH
    our_seconds, their_seconds = [], []
    for round_ in range(rounds + 1):
        our_batches, their_batches = ours(dataset, size, round_), reference(dataset, size)
        our_total = their_total = 0.0
        for _ in range(num_batches):
            our_total += time_call(lambda batches=our_batches: next(batches))
            their_total += time_call(lambda batches=their_batches: next(batches))
        if round_ > 0:  # the first round is warm-up
            our_seconds.append(our_total)
            their_seconds.append(their_total)
    ratios = sorted(theirs / ours for ours, theirs in zip(our_seconds, their_seconds, strict=True))
    count = num_batches * BATCH
    return (
        f"| {folder.name} | {size[0]} x {size[1]} | {count / statistics.median(our_seconds):.0f} "
        f"| {count / statistics.median(their_seconds):.0f} "
        f"| {statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f}) |"
    )


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
        for text in args.sizes:
            short, long = map(int, text.split(","))
            print(compare(folder, (short, long), args.images, args.rounds), flush=True)


if __name__ == "__main__":
    main()
