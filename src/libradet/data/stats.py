"""Statistics of a dataset: classes, sizes, aspect ratios, crowding, and coverage by anchors."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from libradet.data.records import Dataset
from libradet.data.transforms.resize import Size, check_size, target_size
from libradet.utils.tables import facts_table
from libradet.utils.text import counted, summarize_list

SIDES = (8, 16, 32, 64, 96, 128, 256, 512)
"""Edges of the histogram of sqrt(width * height), pixels of the file."""

ASPECTS = (1 / 5, 1 / 3, 1 / 2, 2 / 3, 3 / 2, 2, 3, 5)
"""Edges of the histogram of width / height."""


@dataclass(frozen=True)
class Stats:
    """Statistics of one split; crowd regions are only counted.

    Attributes:
        classes: by name: boxes, images with at least one, median sqrt(area) in pixels of the file.
        image_sizes: number of images by (width, height), most frequent first, at most ten.
        boxes_per_image: mean, median, maximum.
        sides, aspects: histograms over SIDES and ASPECTS, with an open class at each end.
        resized_side: 5th, 50th and 95th percentile of sqrt(area) after resizing.
        covered: share of boxes whose shape has an IoU of 0.5 or more with that of an anchor.
        overlapping: share of boxes that have an IoU above 0.5 with another of their class.
        advice: recommendations, one sentence each.
    """

    images: int
    boxes: int
    crowd: int
    classes: dict[str, dict[str, int | float]]
    image_sizes: dict[tuple[int, int], int]
    boxes_per_image: tuple[float, float, int]
    sides: list[int]
    aspects: list[int]
    resized_side: tuple[float, float, float]
    covered: float
    overlapping: float
    advice: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as plain JSON values, with the edges of the histograms."""
        sizes = {f"{width}x{height}": count for (width, height), count in self.image_sizes.items()}
        return asdict(self) | {"image_sizes": sizes, "side_edges": SIDES, "aspect_edges": ASPECTS}

    def render(self, title: str = "Dataset") -> Group:
        """Return the statistics for printing with rich."""
        mean, median, most = self.boxes_per_image
        crowd = f", {self.crowd:,} crowd regions" if self.crowd else ""
        small, half, large = self.resized_side
        facts = {
            "images": f"{self.images:,}",
            "sizes": summarize_list([f"{w}x{h} ({n:,})" for (w, h), n in self.image_sizes.items()]),
            "boxes": f"{self.boxes:,}{crowd}",
            "boxes per image": f"mean {mean:.1f}, median {median:g}, at most {most}",
            "side after resizing": f"5 % below {small:.0f}, half below {half:.0f}, 95 % below {large:.0f} px",
            "anchor coverage": f"{self.covered:.1%} of boxes (IoU >= 0.5 with the best shape)",
            "same class overlaps": f"{self.overlapping:.1%} of boxes (IoU > 0.5)",
        }
        sides = _chart("sqrt(area), px", _ranges(SIDES, "{:g}"), self.sides)
        aspects = _chart("width / height", _ranges(ASPECTS, "{:.2f}"), self.aspects)
        advice = [escape(f"- {text}") for text in self.advice]
        return Group(
            Text(title, style="italic"), facts_table(facts), _class_table(self.classes), sides, aspects, *advice
        )


def compute_stats(
    dataset: Dataset,
    size: Size = (800, 1333),
    *,
    scales: Sequence[int | float] = (8.0,),
    ratios: Sequence[int | float] = (0.5, 1.0, 2.0),
    strides: Sequence[int] = (4, 8, 16, 32, 64),
) -> Stats:
    """Return the statistics of a split.

    Args:
        dataset: the split.
        size: (short, long) side to which images are resized, or "original".
        scales, ratios, strides: of the anchors; ratios are height over width.
    """
    check_size(size)
    boxes, owner, labels, crowd = _flatten(dataset)
    sides = boxes[:, 2:] - boxes[:, :2]
    resized = sides * _factors(dataset, size)[owner]
    per_image = np.bincount(owner, minlength=len(dataset))
    root = np.sqrt(sides.prod(1))
    resized_root = np.sqrt(resized.prod(1))
    covered = _covered(resized, scales, ratios, strides)
    overlapping = _overlapping(boxes, owner, labels)
    advice = _advise(resized_root, resized, covered, overlapping, per_image, np.bincount(labels))
    shapes = Counter((p.width, p.height) for p in dataset.images)
    return Stats(
        images=len(dataset),
        boxes=len(boxes),
        crowd=crowd,
        classes=_by_class(dataset, labels, owner, root),
        image_sizes=dict(shapes.most_common(10)),
        boxes_per_image=(len(boxes) / max(1, len(dataset)), _median(per_image), int(per_image.max(initial=0))),
        sides=np.bincount(np.digitize(root, SIDES), minlength=len(SIDES) + 1).tolist(),
        aspects=np.bincount(np.digitize(sides[:, 0] / sides[:, 1], ASPECTS), minlength=len(ASPECTS) + 1).tolist(),
        resized_side=_percentiles(resized_root),
        covered=_share(covered),
        overlapping=overlapping,
        advice=advice,
    )


def _flatten(dataset: Dataset) -> tuple[ndarray, ndarray, ndarray, int]:
    """Return the boxes of objects, the row of their image, their labels, and the number of crowd regions."""
    kept = [~p.crowd for p in dataset.images]
    boxes = np.concatenate([np.zeros((0, 4)), *(p.boxes[k] for p, k in zip(dataset.images, kept, strict=True))])
    none = np.zeros(0, np.int64)
    labels = np.concatenate([none, *(p.labels[k] for p, k in zip(dataset.images, kept, strict=True))])
    owner = np.repeat(np.arange(len(dataset)), [int(k.sum()) for k in kept])
    return boxes, owner, labels, sum(int(p.crowd.sum()) for p in dataset.images)


def _factors(dataset: Dataset, size: Size) -> Float[ndarray, "N 1"]:
    shapes = [(p.height, target_size(p.height, p.width, size)[0]) for p in dataset.images]
    return np.array([new / old for old, new in shapes]).reshape(-1, 1)


def _covered(
    sides: Float[ndarray, "N 2"], scales: Sequence[int | float], ratios: Sequence[int | float], strides: Sequence[int]
) -> ndarray:
    """Return whether each box has an IoU of 0.5 or more with the shape of an anchor at the same center."""
    best = np.zeros(len(sides))
    for base in (scale * stride for scale in scales for stride in strides):
        for ratio in ratios:
            width, height = base / ratio**0.5, base * ratio**0.5
            common = np.minimum(sides[:, 0], width) * np.minimum(sides[:, 1], height)
            best = np.maximum(best, common / (sides.prod(1) + width * height - common))
    return best >= 0.5


def _overlapping(boxes: Float[ndarray, "N 4"], owner: ndarray, labels: ndarray) -> float:
    """Return the share of objects that have an IoU above 0.5 with another of their class in their image."""
    order = np.lexsort((labels, owner))
    boxes, owner, labels = boxes[order].astype(np.float32), owner[order], labels[order]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    hit = np.zeros(len(boxes), bool)
    rows = np.arange(len(boxes))
    # Compare each object with the next, then with the second next, ..., while some are of the same image and class.
    for step in range(1, len(boxes)):
        rows = rows[: np.searchsorted(rows, len(boxes) - step)]
        rows = rows[(owner[rows] == owner[rows + step]) & (labels[rows] == labels[rows + step])]
        if not len(rows):
            break
        a, b = boxes[rows], boxes[rows + step]
        common = (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).clip(0).prod(1)
        close = rows[common / (area[rows] + area[rows + step] - common) > 0.5]
        hit[close] = hit[close + step] = True
    return _share(hit)


def _by_class(dataset: Dataset, labels: ndarray, owner: ndarray, root: ndarray) -> dict[str, dict[str, int | float]]:
    rows = {}
    for label, name in enumerate(dataset.class_names):
        chosen = labels == label
        images = len(np.unique(owner[chosen]))
        rows[name] = {"boxes": int(chosen.sum()), "images": images, "median_side": _median(root[chosen])}
    return rows


def _percentiles(values: ndarray) -> tuple[float, float, float]:
    low, middle, high = np.percentile(values, [5, 50, 95]).tolist() if len(values) else (0.0, 0.0, 0.0)
    return low, middle, high


def _median(values: ndarray) -> float:
    return float(np.median(values)) if len(values) else 0.0


def _share(chosen: ndarray) -> float:
    return float(chosen.mean()) if len(chosen) else 0.0


def _advise(
    root: ndarray, sides: ndarray, covered: ndarray, overlapping: float, per_image: ndarray, counts: ndarray
) -> list[str]:
    if not len(root):
        return ["There are no boxes."]
    advice = []
    tiny = _share(root < 16)
    if tiny > 0.1:
        advice.append(
            f"{tiny:.0%} of boxes are below 16 px after resizing: train on larger images, or cut them into tiles."
        )
    if _share(covered) < 0.9:
        low, high = np.exp(np.percentile(np.log(sides[~covered, 1] / sides[~covered, 0]), [10, 90]))
        middle = float(np.median(root[~covered]))
        advice.append(
            f"Anchors miss {1 - _share(covered):.0%} of boxes: those have height / width from {low:.2g} to {high:.2g} "
            f"and a typical side of {middle:.0f} px; set anchor ratios or scales for them."
        )
    if per_image.max() > 100:
        crowded = int((per_image > 100).sum())
        advice.append(
            f"{counted(crowded, 'image holds', 'images hold')} more than 100 boxes (up to "
            f"{per_image.max()}): allow more detections."
        )
    if overlapping > 0.02:
        advice.append(f"{overlapping:.0%} of boxes overlap one of their class by IoU > 0.5: raise the NMS threshold.")
    present = counts[counts > 0]
    if present.max() > 50 * present.min():
        advice.append(f"Classes are unbalanced: from {present.min()} to {counted(present.max(), 'box', 'boxes')}.")
    return advice


def _ranges(edges: Sequence[int | float], form: str) -> list[str]:
    texts = [form.format(edge) for edge in edges]
    return [f"< {texts[0]}", *(f"{a} - {b}" for a, b in pairwise(texts)), f">= {texts[-1]}"]


def _chart(title: str, names: Sequence[str], counts: Sequence[int]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 1))
    most = max(*counts, 1)
    for name, count in zip(names, counts, strict=True):
        table.add_row(escape(name), f"{count:,}", "█" * round(30 * count / most), style=None if count else "dim")
    return table


def _class_table(classes: dict[str, dict[str, int | float]]) -> Table:
    table = Table("class", "boxes", "images", "median side, px", box=None, padding=(0, 1), header_style="dim")
    for name, row in sorted(classes.items(), key=lambda item: -item[1]["boxes"]):
        if row["boxes"]:
            table.add_row(escape(name), f"{row['boxes']:,}", f"{row['images']:,}", f"{row['median_side']:.0f}")
    without = [name for name, row in classes.items() if not row["boxes"]]
    if without:
        table.caption, table.caption_justify = f"without any box: {escape(summarize_list(without, 20))}", "left"
    return table
