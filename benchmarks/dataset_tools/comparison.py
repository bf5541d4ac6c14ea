"""Comparison of an exported dataset, as libradet reads it, with the dataset that was exported."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from benchmarks.dataset_tools.source import IMAGES
from libradet.data.read import check, read, splits
from libradet.data.records import Dataset, ImageRecord
from libradet.errors import UserError

FAR = 5.0
"""Pixels; a box without one of its class this close counts as lost."""

NO_OBJECTS = "there is no ground truth"
"""In the warning about the split of the image without objects."""


@dataclass
class Result:
    """What reading an export yields.

    Attributes:
        pixels: largest difference of a coordinate.
        boxes: number of boxes that were compared.
        lost, extra: boxes without counterpart: those exported, and those read.
        lost_images: number of images that are not read.
        failure: first line of the error, if the tool or the reader refuses.
        messages: what ``libradet data check`` reports as skipped, as a warning or an error.
    """

    pixels: float = 0.0
    boxes: int = 0
    lost: int = 0
    extra: int = 0
    lost_images: int = 0
    failure: str = ""
    messages: list[str] = field(default_factory=list)


def compare(folder: Path) -> Result:
    """Read an exported dataset and compare all its splits with the source."""
    result = Result()
    failure = folder / "failure.txt"
    if failure.exists():
        result.failure = f"the tool: {failure.read_text()}"
        return result
    try:
        datasets = [read(folder, split, training=False)[0] for split in splits(folder)]
    except UserError as error:
        result.failure = str(error).replace(f"{folder}", "DIR").splitlines()[0]
        return result
    report = check(folder)
    skipped = [f"{finding['count']} x {finding['reason']}" for finding in report.skipped]
    texts = (*skipped, *report.warnings, *report.errors)
    result.messages = [text.replace(f"{folder}", "DIR") for text in texts if NO_OBJECTS not in text]
    _compare(datasets, result)
    return result


def _compare(datasets: list[Dataset], result: Result) -> None:
    records = [(image, dataset.class_names) for dataset in datasets for image in dataset.images]
    for name, (_, objects) in IMAGES.items():
        own = [(image, classes) for image, classes in records if _is_same(image.path, name)]
        result.lost_images += not own
        read_boxes = [box for image, classes in own for box in _boxes(image, classes)]
        expected = [(label, np.array([x, y, x + w, y + h])) for label, (x, y, w, h) in objects]
        _match(expected, read_boxes, result)


def _is_same(path: Path, name: str) -> bool:
    return path.stem.replace("_", " ").split("-")[-1] == Path(name).stem.replace("_", " ")


def _boxes(image: ImageRecord, classes: list[str]) -> list[tuple[str, np.ndarray]]:
    return [(classes[k], box.astype(np.float64)) for k, box in zip(image.labels, image.boxes, strict=True)]


def _match(expected: list, actual: list, result: Result) -> None:
    """Pair boxes of one class so that the sum of differences is smallest."""
    costs = np.full((len(expected), len(actual)), 1e6)
    for i, (label, box) in enumerate(expected):
        for j, (own_label, own_box) in enumerate(actual):
            if label == own_label:
                costs[i, j] = np.abs(box - own_box).max()
    pairs = [costs[i, j] for i, j in zip(*linear_sum_assignment(costs), strict=True) if costs[i, j] <= FAR]
    result.pixels = float(max([result.pixels, *pairs]))
    result.boxes += len(pairs)
    result.lost += len(expected) - len(pairs)
    result.extra += len(actual) - len(pairs)
