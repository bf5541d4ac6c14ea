"""What a dataset asks of a detector: how many of what, how large, how long, how crowded, and do anchors fit."""

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

from libradet.data.checks.report import few
from libradet.data.loading.transforms import Size, target_size
from libradet.data.records import Dataset

SIDES = (8, 16, 32, 64, 96, 128, 256, 512)
"""Edges of the histogram of √(width * height), pixels of the file."""

ASPECTS = (1 / 5, 1 / 3, 1 / 2, 2 / 3, 3 / 2, 2, 3, 5)
"""Edges of the histogram of width / height."""


@dataclass(frozen=True)
class Stats:
    """Numbers of one split; crowd regions only count as such.

    Attributes:
        classes: by name: boxes, images with at least one, median √area in pixels of the file.
        image_sizes: (width, height) -> how many, most frequent first, at most ten.
        boxes_per_image: mean, median, most.
        sides, aspects: histograms over SIDES and ASPECTS, with an open class at each end.
        resized_side: 5th, 50th and 95th percentile of √area after resizing.
        covered: share of boxes whose shape overlaps that of some anchor by IoU 0.5 or more.
        overlapping: share of boxes that overlap another of their class by IoU above 0.5.
        advice: sentences.
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
        """The numbers with plain keys, and the edges of the histograms."""
        sizes = {f"{width}x{height}": count for (width, height), count in self.image_sizes.items()}
        return asdict(self) | {"image_sizes": sizes, "side_edges": SIDES, "aspect_edges": ASPECTS}

    def render(self, title: str = "Dataset") -> Group:
        """Tables to print with rich."""
        mean, median, most = self.boxes_per_image
        facts = Table(title=escape(title), title_justify="left", show_header=False, box=None, padding=(0, 1))
        crowd = f", {self.crowd:,} crowd regions" if self.crowd else ""
        facts.add_row("images", f"{self.images:,}")
        facts.add_row("sizes", few([f"{w}x{h} ({n:,})" for (w, h), n in self.image_sizes.items()]))
        facts.add_row("boxes", f"{self.boxes:,}{crowd}")
        facts.add_row("boxes per image", f"mean {mean:.1f}, median {median:g}, at most {most}")
        facts.add_row(
            "side after resizing",
            "5 % below {:.0f}, half below {:.0f}, 95 % below {:.0f} px".format(*self.resized_side),
        )
        facts.add_row("anchors fit", f"{self.covered:.1%} of boxes (IoU ≥ 0.5 with the best shape)")
        facts.add_row("same class overlaps", f"{self.overlapping:.1%} of boxes (IoU > 0.5)")
        sides = _chart("√area, px", _ranges(SIDES, "{:g}"), self.sides)
        aspects = _chart("width / height", _ranges(ASPECTS, "{:.2f}"), self.aspects)
        advice = [escape(f"· {text}") for text in self.advice]
        return Group(facts, _class_table(self.classes), sides, aspects, *advice)


def measure(
    dataset: Dataset,
    size: Size = (800, 1333),
    *,
    scales: Sequence[int | float] = (8.0,),
    ratios: Sequence[int | float] = (0.5, 1.0, 2.0),
    strides: Sequence[int] = (4, 8, 16, 32, 64),
) -> Stats:
    """Numbers of a split, for images resized to ``size`` and anchors of these scales, ratios (h / w) and strides."""
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
    """Boxes that are objects, the row of their image, their labels, and the number of crowd regions."""
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
    """Whether some anchor's shape overlaps each box by IoU 0.5 or more, centers aligned."""
    best = np.zeros(len(sides))
    for base in (scale * stride for scale in scales for stride in strides):
        for ratio in ratios:
            width, height = base / ratio**0.5, base * ratio**0.5
            common = np.minimum(sides[:, 0], width) * np.minimum(sides[:, 1], height)
            best = np.maximum(best, common / (sides.prod(1) + width * height - common))
    return best >= 0.5


def _overlapping(boxes: Float[ndarray, "N 4"], owner: ndarray, labels: ndarray) -> float:
    """Share of objects that overlap another of their class in their image by IoU above 0.5."""
    order = np.lexsort((labels, owner))
    boxes, owner, labels = boxes[order].astype(np.float32), owner[order], labels[order]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    hit = np.zeros(len(boxes), bool)
    rows = np.arange(len(boxes))
    # Each object with the first after it, then with the second, ..., as long as some have one of their kind there.
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
        advice.append(f"{crowded} images hold more than 100 boxes (up to {per_image.max()}): allow more detections.")
    if overlapping > 0.02:
        advice.append(
            f"{overlapping:.0%} of boxes overlap one of their class by IoU > 0.5: raise the threshold of suppression."
        )
    present = counts[counts > 0]
    if present.max() > 50 * present.min():
        advice.append(f"Classes are far from balanced: from {present.min()} to {present.max():,} boxes.")
    return advice


def _ranges(edges: Sequence[int | float], form: str) -> list[str]:
    texts = [form.format(edge) for edge in edges]
    return [f"< {texts[0]}", *(f"{a} – {b}" for a, b in pairwise(texts)), f"≥ {texts[-1]}"]


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
        table.caption, table.caption_justify = f"without any box: {escape(few(without, 20))}", "left"
    return table
