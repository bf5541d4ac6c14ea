"""Samples drawn on the user's own images, random ones beside balanced ones."""

import io

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy import ndarray
from PIL import Image

from libradet.analysis.choosing import spread_evenly
from libradet.analysis.figure_style import style
from libradet.analysis.measuring import Drawing
from libradet.analysis.sample_level import BIN
from libradet.data.images import load_image
from libradet.data.records import Dataset

_NEAR, _FAR = "#ffa24d", "#b9c0cc"
DRAWN = 40
"""So many of the negatives of an image are drawn: all of them would hide it."""

_WIDTH = 5.0
_DPI = 130


def draw_samples(drawing: Drawing, dataset: Dataset, sampler: str) -> UInt8[ndarray, "_ _ 3"]:
    """One image with ``DRAWN`` of the negatives that ``sampler`` chose: orange above IoU 0.05, gray below.

    Objects are white.
    """
    image = dataset.images[drawing.index]
    pixels = load_image(image.path, image.upright).permute(1, 2, 0).numpy()
    with style():
        figure = Figure(figsize=(_WIDTH, _WIDTH * image.height / image.width), dpi=_DPI)
        axis = figure.add_axes((0, 0, 1, 1))
        # Half as bright, so that thin lines show on whatever is there.
        axis.imshow((pixels * 0.55).astype(np.uint8), aspect="auto")
        axis.axis("off")
        boxes, iou = (t.numpy() for t in drawing.chosen[sampler])
        drawn = spread_evenly(len(iou), DRAWN) if len(iou) else []
        boxes, iou = boxes[drawn], iou[drawn]
        order = iou.argsort(kind="stable")
        for box, value in zip(boxes[order], iou[order], strict=True):
            near = value > BIN
            axis.add_patch(_outline(box, _NEAR if near else _FAR, 1.3 if near else 0.7, 0.9 if near else 0.6))
        for box in drawing.objects.numpy():
            axis.add_patch(_outline(box, "white", 2.0, 1.0))
        axis.set_xlim(0, image.width)
        axis.set_ylim(image.height, 0)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return np.asarray(Image.open(file).convert("RGB"))


def share_near(drawing: Drawing, sampler: str) -> tuple[int, int]:
    """How many of the negatives overlap an object by more than 0.05, and how many there are."""
    iou = drawing.chosen[sampler][1]
    return int((iou > BIN).sum()), len(iou)


def _outline(box: Float[ndarray, " 4"], color: str, width: float, alpha: float) -> Rectangle:
    left, top, right, bottom = box.tolist()
    size = right - left, bottom - top
    return Rectangle((left, top), *size, fill=False, edgecolor=color, linewidth=width, alpha=alpha)
