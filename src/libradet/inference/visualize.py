"""Drawing of detections: single images, and a grid that compares ground truth with predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from libradet.utils.palette import FAINT, INK, OKABE_ITO, PAPER
from libradet.utils.quiet_supervision import supervision as sv
from libradet.utils.text import counted

RGB = UInt8[ndarray, "_ _ 3"]

_MIN_LONG_SIDE = 640
_CELL = 640
_GAP = 16
_CELL_BORDER = "#C8C8C8"
# The cost of placing labels without overlap is quadratic in their number.
_MAX_PLACED_LABELS = 100


@dataclass(frozen=True)
class GridRow:
    """One row of a prediction grid: an image with its ground truth and its predictions."""

    image: RGB
    ground_truth: sv.Detections
    predictions: sv.Detections
    title: str


def draw_detections(image: RGB, detections: sv.Detections, class_names: Sequence[str] | None = None) -> RGB:
    """Return the image with boxes, labels, scores, and masks if there are any.

    Line width and font size scale with the image. An image whose long side is less than 640 pixels is enlarged by an
    integer factor, so that labels are legible. The color of a box is that of its class; detections with higher scores
    are drawn on top.

    Args:
        detections: ``xyxy`` and ``mask`` in pixels of ``image``; without ``confidence`` (ground truth) only class
            names are drawn.
        class_names: names of labels 0..C-1; those in ``detections.data["class_name"]`` if None.
    """
    factor = max(1, -(-_MIN_LONG_SIDE // max(image.shape[:2])))
    size = image.shape[1] * factor, image.shape[0] * factor
    canvas = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    scaled = _rescale(_sort_by_score(detections), float(factor), size)
    return np.asarray(_annotate(canvas, scaled, _labels(scaled, class_names)))


def draw_grid(
    rows: Sequence[GridRow], class_names: Sequence[str], headings: tuple[str, str] = ("Ground truth", "Predictions")
) -> RGB:
    """Return a grid with ground truth on the left and predictions on the right, below a legend of the classes."""
    bands = [_header_band(headings, _legend(rows, class_names)), *(_row_band(r) for r in rows)]
    grid = Image.new("RGB", (2 * _CELL + 3 * _GAP, sum(b.height for b in bands) + _GAP), PAPER)
    top = 0
    for band in bands:
        grid.paste(band, (0, top))
        top += band.height
    return np.asarray(grid)


def save_image(image: RGB, path: Path) -> None:
    """Write an image in the format of the file name's suffix, creating parent folders; JPEG at quality 92."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Lossless formats ignore the quality.
    Image.fromarray(image).save(path, quality=92)


def class_color(label: int) -> str:
    """Return the color of class ``label`` as #RRGGBB; colors repeat after seven classes."""
    return OKABE_ITO[label % len(OKABE_ITO)]


def _sort_by_score(detections: sv.Detections) -> sv.Detections:
    """Return the detections by ascending score."""
    scores = np.zeros(len(detections)) if detections.confidence is None else detections.confidence
    ordered = detections[np.argsort(scores, kind="stable")]
    assert isinstance(ordered, sv.Detections)
    return ordered


def _rescale(detections: sv.Detections, scale: float, size: tuple[int, int]) -> sv.Detections:
    """Rescale detections in place to an image of ``size`` (width, height)."""
    detections.xyxy = detections.xyxy * scale
    if detections.mask is not None and detections.mask.shape[2:0:-1] != size:
        # One mask at a time: those of tiles are compact, and do not fit into memory as arrays.
        resized = [Image.fromarray(m.astype(np.uint8) * 255).resize(size) for m in detections.mask]
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
    font_size = max(12, round(26 * sv.calculate_optimal_text_scale(canvas.size)))
    thickness = max(2, round(min(canvas.size) / 240))
    box_colors = sv.ColorPalette.from_hex(list(OKABE_ITO))
    text_colors = sv.ColorPalette.from_hex([_text_color(c) for c in OKABE_ITO])
    font = str(_font_path("DejaVuSans.ttf"))
    if detections.mask is not None:
        canvas = sv.MaskAnnotator(box_colors, opacity=0.45).annotate(canvas, detections)
        canvas = _draw_mask_outlines(canvas, detections, max(1, thickness // 2))
    # A dark outline keeps every color visible on every background.
    canvas = sv.BoxAnnotator(sv.Color.from_hex(INK), thickness=thickness + 2).annotate(canvas, detections)
    canvas = sv.BoxAnnotator(box_colors, thickness=thickness).annotate(canvas, detections)
    annotator = sv.RichLabelAnnotator(
        box_colors,
        text_color=text_colors,
        font_path=font,
        font_size=font_size,
        text_padding=max(2, font_size // 5),
        smart_position=len(detections) <= _MAX_PLACED_LABELS,
    )
    return annotator.annotate(canvas, detections, labels=labels)


def _draw_mask_outlines(canvas: Image.Image, detections: sv.Detections, thickness: int) -> Image.Image:
    """Draw the outlines of masks, which separate adjacent objects of one class."""
    pixels = np.array(canvas)
    assert detections.class_id is not None
    assert detections.mask is not None
    regions = detections.xyxy.round().astype(int) + np.array([-2, -2, 2, 2])
    for mask, region, label in zip(detections.mask, regions, detections.class_id.tolist(), strict=True):
        x0, y0, x1, y1 = region.clip(0).tolist()
        cropped = np.pad(mask[y0:y1, x0:x1], 1)
        inner = cropped
        for _ in range(thickness):
            inner = inner & np.roll(inner, 1, 0) & np.roll(inner, -1, 0) & np.roll(inner, 1, 1) & np.roll(inner, -1, 1)
        edge = (cropped & ~inner)[1:-1, 1:-1]
        pixels[y0:y1, x0:x1][edge] = ImageColor.getrgb(class_color(label))
    return Image.fromarray(pixels)


def _text_color(background: str) -> str:
    red, green, blue = (int(background[i : i + 2], 16) for i in (1, 3, 5))
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else PAPER


def _legend(rows: Sequence[GridRow], class_names: Sequence[str]) -> dict[int, str]:
    """Return the names of the classes in the grid by label."""
    labels = [d.class_id for r in rows for d in (r.ground_truth, r.predictions) if d.class_id is not None]
    return {label: class_names[label] for label in np.unique(np.concatenate([[], *labels])).astype(int).tolist()}


def _header_band(headings: tuple[str, str], legend: dict[int, str]) -> Image.Image:
    band = Image.new("RGB", (2 * _CELL + 3 * _GAP, 92), PAPER)
    draw, small_font = ImageDraw.Draw(band), _font(17)
    x = _GAP
    for label, name in legend.items():
        width = 26 + draw.textlength(name, font=small_font) + 24
        if x + width > band.width:
            draw.text((x, 16), "\N{HORIZONTAL ELLIPSIS}", font=small_font, fill=INK)
            break
        draw.rectangle((x, 18, x + 17, 35), fill=class_color(label), outline=INK)
        draw.text((x + 26, 16), name, font=small_font, fill=INK)
        x += width
    for column, heading in enumerate(headings):
        draw.text((_GAP + column * (_CELL + _GAP), 52), heading, font=_font(24, bold=True), fill=INK)
    return band


def _row_band(row: GridRow) -> Image.Image:
    columns = row.ground_truth, row.predictions
    cells = [_draw_cell(row.image, detections) for detections in columns]
    band = Image.new("RGB", (2 * _CELL + 3 * _GAP, max(c.height for c in cells) + 44), PAPER)
    draw = ImageDraw.Draw(band)
    for column, (cell, detections) in enumerate(zip(cells, columns, strict=True)):
        x = _GAP + column * (_CELL + _GAP)
        band.paste(cell, (x, 34))
        draw.rectangle((x - 1, 33, x + cell.width, 34 + cell.height), outline=_CELL_BORDER)
        caption = counted(len(detections), "object")
        if column == 0:
            caption = f"{row.title} \N{MIDDLE DOT} {caption}"
        draw.text((x, 8), caption, font=_font(16), fill=FAINT)
    return band


def _draw_cell(image: RGB, detections: sv.Detections) -> Image.Image:
    """Draw detections at the size of a cell, so that all labels of the grid have one size."""
    scale = _CELL / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    canvas = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    scaled = _rescale(_sort_by_score(detections), scale, size)
    return _annotate(canvas, scaled, _labels(scaled, None))


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_font_path("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"), size)


@cache
def _font_path(name: str) -> Path:
    # The package is not imported, which would last longer than drawing.
    package = find_spec("matplotlib")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / name
