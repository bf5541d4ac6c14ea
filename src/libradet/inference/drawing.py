"""Images with boxes and masks, for people."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from libradet.utils.warnings_filter import supervision as sv

RGB = UInt8[ndarray, "_ _ 3"]

# Okabe and Ito's colors, told apart by color-blind people too; black is left for outlines.
COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
_LEAST_SIDE = 640
_CELL = 640
_GAP = 16
# Moving labels out of each other's way takes time that grows with the square of their number.
_MOST_MOVED = 100
_INK, _FAINT, _PAPER = "#1A1A1A", "#6B6B6B", "#FFFFFF"


@dataclass(frozen=True)
class SheetRow:
    """One row of an image sheet: an image with its ground truth and with what was found in it."""

    image: RGB
    truth: sv.Detections
    found: sv.Detections
    title: str


def draw(image: RGB, detections: sv.Detections, class_names: Sequence[str] | None = None) -> RGB:
    """The image with boxes, names, scores, and masks if there are any; lines and letters grow with it.

    An image whose long side is less than 640 pixels is enlarged by a whole factor, so that labels can be
    read. The color of a box is that of its class; better detections lie on top.

    Args:
        detections: ``xyxy`` and ``mask`` in pixels of ``image``; without ``confidence`` (ground truth) only
            names show.
        class_names: names of labels 0..C-1; by default those in ``detections.data["class_name"]``.
    """
    factor = max(1, -(-_LEAST_SIDE // max(image.shape[:2])))
    size = image.shape[1] * factor, image.shape[0] * factor
    canvas = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    shown = _scaled(_worst_first(detections), float(factor), size)
    return np.asarray(_annotate(canvas, shown, _labels(shown, class_names)))


def sheet(
    rows: Sequence[SheetRow], class_names: Sequence[str], headings: tuple[str, str] = ("Ground truth", "Detections")
) -> RGB:
    """Ground truth on the left, detections on the right, a row per image, under a legend of the classes."""
    bands = [_headline(headings, _legend(rows, class_names)), *(_row(r) for r in rows)]
    page = Image.new("RGB", (2 * _CELL + 3 * _GAP, sum(b.height for b in bands) + _GAP), _PAPER)
    top = 0
    for band in bands:
        page.paste(band, (0, top))
        top += band.height
    return np.asarray(page)


def save(image: RGB, path: Path) -> None:
    """Write an image in the format that the file's name says; JPEG with high quality."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Formats without loss take no notice of the quality.
    Image.fromarray(image).save(path, quality=92)


def color_of(label: int) -> str:
    """The color of class ``label`` as #RRGGBB; colors repeat after seven classes."""
    return COLORS[label % len(COLORS)]


def _worst_first(detections: sv.Detections) -> sv.Detections:
    scores = np.zeros(len(detections)) if detections.confidence is None else detections.confidence
    ordered = detections[np.argsort(scores, kind="stable")]
    assert isinstance(ordered, sv.Detections)
    return ordered


def _scaled(detections: sv.Detections, scale: float, size: tuple[int, int]) -> sv.Detections:
    """Detections, not shared with anybody, for the image at ``size`` (width, height)."""
    detections.xyxy = detections.xyxy * scale
    if detections.mask is not None and detections.mask.shape[2:0:-1] != size:
        resized = [Image.fromarray(m.astype(np.uint8) * 255).resize(size) for m in np.asarray(detections.mask)]
        detections.mask = np.array([np.asarray(m) >= 128 for m in resized]).reshape(-1, *size[::-1])
    return detections


def _labels(detections: sv.Detections, class_names: Sequence[str] | None) -> list[str]:
    names = detections.data.get("class_name")
    if class_names is not None and detections.class_id is not None:
        names = [class_names[label] for label in detections.class_id]
    names = [""] * len(detections) if names is None else [str(n) for n in names]
    if detections.confidence is None:
        return names
    return [f"{name} {score:.2f}".strip() for name, score in zip(names, detections.confidence, strict=True)]


def _annotate(canvas: Image.Image, detections: sv.Detections, labels: list[str]) -> Image.Image:
    if len(detections) == 0:
        return canvas
    text = max(12, round(26 * sv.calculate_optimal_text_scale(canvas.size)))
    line = max(2, round(min(canvas.size) / 240))
    box_colors = sv.ColorPalette.from_hex(list(COLORS))
    text_colors = sv.ColorPalette.from_hex([_readable_on(c) for c in COLORS])
    font = str(_font_path("DejaVuSans.ttf"))
    if detections.mask is not None:
        canvas = sv.MaskAnnotator(box_colors, opacity=0.45).annotate(canvas, detections)
        canvas = _outline(canvas, detections, max(1, line // 2))
    # A dark rim keeps every color visible on every background.
    canvas = sv.BoxAnnotator(sv.Color.from_hex(_INK), thickness=line + 2).annotate(canvas, detections)
    canvas = sv.BoxAnnotator(box_colors, thickness=line).annotate(canvas, detections)
    annotator = sv.RichLabelAnnotator(
        box_colors,
        text_color=text_colors,
        font_path=font,
        font_size=text,
        text_padding=max(2, text // 5),
        smart_position=len(detections) <= _MOST_MOVED,
    )
    return annotator.annotate(canvas, detections, labels=labels)


def _outline(canvas: Image.Image, detections: sv.Detections, thickness: int) -> Image.Image:
    """The masks' edges, by which neighbors of one class are told apart."""
    pixels = np.array(canvas)
    assert detections.class_id is not None
    assert isinstance(detections.mask, np.ndarray)
    windows = detections.xyxy.round().astype(int) + np.array([-2, -2, 2, 2])
    for mask, window, label in zip(detections.mask, windows, detections.class_id.tolist(), strict=True):
        x0, y0, x1, y1 = window.clip(0).tolist()
        seen = np.pad(mask[y0:y1, x0:x1], 1)
        inner = seen
        for _ in range(thickness):
            inner = inner & np.roll(inner, 1, 0) & np.roll(inner, -1, 0) & np.roll(inner, 1, 1) & np.roll(inner, -1, 1)
        edge = (seen & ~inner)[1:-1, 1:-1]
        pixels[y0:y1, x0:x1][edge] = ImageColor.getrgb(color_of(label))
    return Image.fromarray(pixels)


def _readable_on(color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return _INK if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else _PAPER


def _legend(rows: Sequence[SheetRow], class_names: Sequence[str]) -> dict[int, str]:
    """Names by label of the classes that occur on the sheet."""
    shown = [d.class_id for r in rows for d in (r.truth, r.found) if d.class_id is not None]
    return {label: class_names[label] for label in np.unique(np.concatenate([[], *shown])).astype(int).tolist()}


def _headline(headings: tuple[str, str], legend: dict[int, str]) -> Image.Image:
    band = Image.new("RGB", (2 * _CELL + 3 * _GAP, 92), _PAPER)
    pen, small = ImageDraw.Draw(band), _font(17)
    x = _GAP
    for label, name in legend.items():
        width = 26 + pen.textlength(name, font=small) + 24
        if x + width > band.width:
            pen.text((x, 16), "…", font=small, fill=_INK)
            break
        pen.rectangle((x, 18, x + 17, 35), fill=color_of(label), outline=_INK)
        pen.text((x + 26, 16), name, font=small, fill=_INK)
        x += width
    for column, heading in enumerate(headings):
        pen.text((_GAP + column * (_CELL + _GAP), 52), heading, font=_font(24, bold=True), fill=_INK)
    return band


def _row(row: SheetRow) -> Image.Image:
    cells = [_cell(row.image, detections) for detections in (row.truth, row.found)]
    band = Image.new("RGB", (2 * _CELL + 3 * _GAP, max(c.height for c in cells) + 44), _PAPER)
    pen = ImageDraw.Draw(band)
    for column, (cell, detections) in enumerate(zip(cells, (row.truth, row.found), strict=True)):
        x = _GAP + column * (_CELL + _GAP)
        band.paste(cell, (x, 34))
        pen.rectangle((x - 1, 33, x + cell.width, 34 + cell.height), outline="#C8C8C8")
        what = "1 object" if len(detections) == 1 else f"{len(detections)} objects"
        pen.text((x, 8), f"{row.title} · {what}" if column == 0 else what, font=_font(16), fill=_FAINT)
    return band


def _cell(image: RGB, detections: sv.Detections) -> Image.Image:
    """Drawn at the size at which it is shown, so that letters look alike on the whole sheet."""
    scale = _CELL / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    canvas = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    shown = _scaled(_worst_first(detections), scale, size)
    return _annotate(canvas, shown, _labels(shown, None))


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_font_path("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"), size)


@cache
def _font_path(name: str) -> Path:
    return Path(matplotlib.get_data_path(), "fonts", "ttf", name)
