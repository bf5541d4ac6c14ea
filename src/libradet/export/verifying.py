"""Whether an exported file finds what the detector that it was made of finds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor
from torchvision.ops import box_iou

from libradet.data.loading.transforms import Size, prepare
from libradet.data.synthesis.synthetic import draw_scene
from libradet.export.running import Exported
from libradet.inference.finder import Finder
from libradet.inference.predictor import find

Image = UInt8[ndarray, "_ _ 3"]

PIXELS, SCORE, MASK = 1e-2, 1e-3, 1e-2
"""How far apart boxes (in pixels of the image), scores and cells of masks may be."""

SURE, NEAR = 0.3, 0.5
"""Score and IoU from which a file of lower precision is expected to find a detection again."""

DRAWN = ((480, 640, 1), (333, 250, 3), (121, 203, 1))
"""Height, width and number of the images that every file is tried on."""


@dataclass
class Difference:
    """The largest ones; and of how many images and detections."""

    pixels: float = 0.0
    score: float = 0.0
    mask: float = 0.0
    images: int = 0
    detections: int = 0

    @property
    def small(self) -> bool:
        """Whether it is within the tolerances."""
        return self.pixels <= PIXELS and self.score <= SCORE and self.mask <= MASK

    def __str__(self) -> str:
        masks = f", {self.mask:.1e} of a mask's cell" if self.mask else ""
        return (
            f"{self.detections} detections in {self.images} images, at most {self.pixels:.1e} px and "
            f"{self.score:.1e} of score apart{masks}"
        )


class Found(NamedTuple):
    """Of one image, in its pixels.

    Attributes:
        end: what scores no more may be missing: it is near the threshold, or there was no room for it.
    """

    boxes: Float[Tensor, "D 4"]
    scores: Float[Tensor, " D"]
    labels: Int[Tensor, " D"]
    masks: Float[Tensor, "D M M"] | None
    end: float


class Agreement(NamedTuple):
    """Attributes:
    again: detections that a file of lower precision finds again, with the same class and IoU of at least 0.5.
    detections: those of the model that score at least 0.3.
    """

    again: int
    detections: int

    @property
    def enough(self) -> bool:
        """Whether it is most of them."""
        return 2 * self.again >= self.detections

    def __str__(self) -> str:
        return f"{self.again} of {self.detections} detections (score ≥ {SURE}) found again"


def drawn_images() -> list[Image]:
    """Scenes of several sizes, the same every time; sizes that are the same lie side by side."""
    noise = np.random.default_rng(0)
    return [draw_scene(noise, (width, height), 5)[0] for height, width, count in DRAWN for _ in range(count)]


def compare(model: Finder, exported: Exported, images: Sequence[Image]) -> Difference:
    """Show both the same images, those of one size together.

    Infinite where a detection of one has no counterpart among those of the other.
    """
    total = Difference(images=len(images))
    about = exported.description
    for _, group in groupby(images, lambda image: image.shape):
        alike = list(group)
        pairs = zip(
            _look(model, about.size, alike, about.threshold),
            _look(exported, exported.image_size, alike, about.threshold),
            strict=True,
        )
        for ours, theirs in pairs:
            total.detections += len(ours.scores)
            _compare(ours, theirs, total)
            _compare(theirs, ours, total)
    return total


def agree(model: Finder, exported: Exported, images: Sequence[Image]) -> Agreement:
    """Show both the same images, one by one, and count what both find."""
    again = detections = 0
    about = exported.description
    for image in images:
        ours = next(_look(model, about.size, [image], about.threshold))
        theirs = next(_look(exported, exported.image_size, [image], about.threshold))
        sure = ours.scores >= SURE
        near = box_iou(ours.boxes[sure], theirs.boxes) >= NEAR
        same = ours.labels[sure][:, None] == theirs.labels
        again, detections = again + int((near & same).any(1).sum()), detections + int(sure.sum())
    return Agreement(again, detections)


def _look(finder: Finder, size: Size, images: Sequence[Image], threshold: float) -> Iterator[Found]:
    given = None
    if finder.proposals_wanted:
        given = [_boxes(image, row) for row, image in enumerate(images)]
    batch = prepare(images, size, finder.divisor, given)
    found = find(finder, batch)
    assert batch.scales is not None
    for row, image in enumerate(images):
        ends = torch.tensor([image.shape[1], image.shape[0]] * 2)
        boxes = torch.minimum(found.boxes[row].double() / batch.scales[row].double().repeat(2), ends)
        keep = found.valid[row]
        scores = found.scores[row][keep].float()
        masks = None if found.masks is None else found.masks[row][keep].float()
        end = float(scores.min()) if keep.all() else threshold
        yield Found(boxes[keep].float(), scores, found.labels[row][keep], masks, end + SCORE)


def _boxes(image: Image, seed: int, count: int = 200) -> Float[Tensor, "P 4"]:
    """Proposals of all sizes."""
    corners = np.sort(np.random.default_rng(seed).uniform(0, 1, (count, 2, 2)), axis=1)
    return torch.from_numpy((corners * image.shape[1::-1]).reshape(-1, 4)).float()


def _compare(here: Found, there: Found, total: Difference) -> None:
    """Look for what was found here among what was found there."""
    if not len(here.scores):
        return
    missing = here.boxes.new_full((len(here.scores), 1), torch.inf)
    pixels = torch.cat([torch.cdist(here.boxes, there.boxes, p=torch.inf), missing], 1)
    score = torch.cat([(here.scores[:, None] - there.scores).abs(), missing], 1)
    other = torch.cat([here.labels[:, None] != there.labels, missing.isinf()], 1)
    apart = torch.maximum(pixels / PIXELS, score / SCORE).masked_fill(other, torch.inf)
    nearest, at = apart.min(1)
    kept = here.scores > max(here.end, there.end)
    rows = torch.arange(len(at))[kept | (nearest <= 1)]
    if not len(rows):
        return
    pixels, score = pixels[rows, at[rows]].amax(), score[rows, at[rows]].amax()
    total.pixels, total.score = max(total.pixels, float(pixels)), max(total.score, float(score))
    if here.masks is not None and there.masks is not None and nearest[rows].isfinite().all():
        total.mask = max(total.mask, float((here.masks[rows] - there.masks[at[rows]]).abs().max()))
