"""Reads inputs and writes outputs of a runner; imported by scripts that run in a runtime's own environment.

A runner is called as ``python RUNNER.py MODEL INPUTS OUTPUTS``. ``INPUTS`` contains files such as ``3x201x277.u8``:
uint8 RGB images [3, 201, 277, 3]. For each, the runner writes ``OUTPUTS/3x201x277.json``: the outputs by name, and
``seconds``, the median processor time of a run. It computes on one thread.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

NAMES = ("boxes", "scores", "labels", "valid", "masks")
REPEATS = 5

Run = Callable[[np.ndarray], list]
"""Maps images to the outputs in the order of ``NAMES``."""


def read_images(path: Path) -> np.ndarray:
    """Return uint8 RGB images [B, H, W, 3]; the shape is the file's name."""
    batch_size, height, width = map(int, path.stem.split("x"))
    return np.fromfile(path, np.uint8).reshape(batch_size, height, width, 3)


def run_cases(prepare: Callable[[str, tuple[int, ...]], Run]) -> None:
    """Run every input of the folder.

    Args:
        prepare: returns a function that runs the model (path) on images of a shape.
    """
    model, inputs, outputs = sys.argv[1:]
    for path in sorted(Path(inputs).glob("*.u8")):
        images = read_images(path)
        run = prepare(model, images.shape)
        results, seconds = run(images), []
        for _ in range(REPEATS):
            start = time.process_time()
            run(images)
            seconds.append(time.process_time() - start)
        document = {name: np.asarray(result).tolist() for name, result in zip(NAMES, results, strict=False)}
        document["seconds"] = statistics.median(seconds)
        (Path(outputs) / f"{path.stem}.json").write_text(json.dumps(document))
