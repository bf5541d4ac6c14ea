"""Milliseconds per image of the detectors of ``libradet models --weights``, as libradet runs them on this machine.

Detectors of equal architecture are measured once. Weights are random: times depend on them by the number of detections
alone, while the number of proposals is that of the settings.

Usage: python -m benchmarks.published_models [--size 800 1333] [--rounds 5] [--names 'libra_*']
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import torch

import libradet
from benchmarks.machine import describe_machine
from libradet.interop.coco_weights import BUILDER, COCO_WEIGHTS, PublishedWeights
from libradet.interop.loading import load_checkpoint
from libradet.models.zoo import make_config

PADDING = 32
"""Multiple to which the origins pad images."""


def main() -> None:
    """Print a row for each architecture as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=5, help="timed images; the table has their median")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--names", default="*", help="pattern of the names to measure")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    machine = describe_machine(args.threads, None, None)
    bf16 = {"AVX-512-BF16", "AMX-BF16"} & set(machine["instructions"])
    precisions = ("fp32", "bf16") if bf16 else ("fp32",)
    print(f"{machine['processor']}, {', '.join(machine['instructions'])}, load {os.getloadavg()[0]:.1f}")
    print(f"| name | {' | '.join(f'{p} ms' for p in precisions)} |\n|---|{'---|' * len(precisions)}", flush=True)
    image = torch.randint(0, 256, (3, *args.size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for weights in architectures():
        if fnmatch(weights.name, args.names):
            times = [f"{1000 * measure(weights, p, image, args.rounds):.0f}" for p in precisions]
            print(f"| `{weights.name}` | {' | '.join(times)} |", flush=True)


def architectures() -> Iterator[PublishedWeights]:
    """Yield one of the detectors of each architecture."""
    seen = set()
    for weights in COCO_WEIGHTS:
        torchvision_name = weights.name if weights.torchvision_weights else ""
        key = (weights.model, weights.backbone, torchvision_name)
        if key not in seen:
            seen.add(key)
            yield weights


def measure(weights: PublishedWeights, precision: str, image: torch.Tensor, rounds: int) -> float:
    """Return the median of the seconds of ``predict`` on an image, decoded already, after two warm-ups."""
    model = build(weights)
    model.config.image.size = tuple(image.shape[-2:])
    model = libradet.optimize(model, precision=precision)
    pixels = image.permute(1, 2, 0).numpy()
    seconds = []
    for _ in range(rounds + 2):
        start = time.perf_counter()
        model.predict(pixels)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def build(weights: PublishedWeights) -> libradet.Detector:
    """Return the detector with random weights."""
    torch.manual_seed(0)
    if not weights.torchvision_weights:
        config = make_config(weights.model, 80, weights.backbone)
        config.image.size_divisible = PADDING
        return libradet.create_model(config=config)
    import torchvision

    name = weights.name.removesuffix("_coco")
    builder = getattr(torchvision.models.detection, name)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.pth"
        torch.save(builder(weights=None, weights_backbone=None).state_dict(), file)
        return load_checkpoint(file, metadata={BUILDER: name}).model


if __name__ == "__main__":
    main()
