"""Time from the start of ``libradet predict NAME IMAGE`` to the detections of the image, with the weights cached.

It is compared with ``import torch, torchvision`` and reading the file. Commands run in their own processes and in
turns, so that drift of the machine affects all of them. Weights are random, under a name of published weights in an
empty cache. Prints a Markdown table: median wall time, CPU time, and the ratios of both to the import and reading in
the same round. "Start" is the time for one image less what a second image adds: all but the detector's own time.

    python -m benchmarks.first_box --rounds 5
    python -m benchmarks.first_box --size 320 320
"""

import argparse
import os
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.resources import Times, time_commands
from libradet.utils.tables import markdown_table

READ = "import torch, torchvision, sys; from safetensors.torch import load_file; load_file(sys.argv[1])"
IMAGES = ("a.jpg", "b.jpg")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="libra_faster_rcnn_r50_fpn_coco", help="published weights")
    parser.add_argument("--rounds", type=int, default=5, help="runs of every command (default: 5)")
    parser.add_argument("--size", type=int, nargs=2, metavar=("SHORT", "LONG"), help="size of the resized image")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        os.environ["TORCH_HOME"] = folder
        path = fill_cache(args.name, Path(folder))
        size = ["--size", *map(str, args.size)] if args.size else []
        predict = [sys.executable, "-m", "libradet", "predict", args.name]
        commands = [[sys.executable, "-c", READ, str(path)]]
        commands += [[*predict, *IMAGES[:n], "--batch_size", "1", *size] for n in (1, 2)]
        time_commands(commands, folder, check=True)  # warm-up: fills the file cache
        rounds = [time_commands(commands, folder, check=True) for _ in range(args.rounds)]
    print(markdown_table(["", "wall time", "CPU time", "wall ratio", "CPU ratio"], table_rows(rounds)))


def fill_cache(name: str, folder: Path) -> Path:
    """Write random weights as the converted file of that name, and two images; return the path of the file."""
    import numpy as np
    from PIL import Image

    from libradet.interop.coco_weights import by_name
    from libradet.interop.weights_cache import converted_path
    from libradet.models.build import create_model
    from libradet.models.serialization import save_model

    weights = by_name(name)
    if weights is None:
        raise SystemExit(f"{name}: not the name of published weights; see libradet models --weights")
    path = converted_path(weights)
    save_model(create_model(weights.model, backbone=weights.backbone), path)
    for i, image in enumerate(IMAGES):
        pixels = np.random.default_rng(i).integers(0, 256, (480, 640, 3), np.uint8)
        Image.fromarray(pixels).save(folder / image)
    return path


def table_rows(rounds: list[list[Times]]) -> list[list[str]]:
    """Return a row for reading, for one image, and for the start."""
    names = ("import torch, torchvision, and reading the file", "predict", "start of predict")
    rows = []
    for i, name in enumerate(names):
        times = [[_row(one, i)[k] for one in rounds] for k in (0, 1)]
        ratios = [[_row(one, i)[k] / one[0][k] for one in rounds] for k in (0, 1)]
        seconds = [f"{statistics.median(values):.2f} s" for values in times]
        rows.append([name, *seconds, *(f"{statistics.median(values):.2f}" for values in ratios)])
    return rows


def _row(times: list[Times], row: int) -> Times:
    reading, one, two = times
    start = (2 * one[0] - two[0], 2 * one[1] - two[1])
    return (reading, one, start)[row]


if __name__ == "__main__":
    main()
