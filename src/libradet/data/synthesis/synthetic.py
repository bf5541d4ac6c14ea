"""Synthetic detection dataset that is not trivial to learn.

Objects of 12 pixels to half the image, occlusion, distractors, textured background, varying light, and noise. An image
is a pure function of (seed, split, number): every dataset can be generated again byte for byte.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hotcoco import mask as rle
from jaxtyping import Bool, Float32, Int64, UInt8
from numpy import ndarray
from PIL import Image

from libradet.data.formats.detect import contains_dataset
from libradet.data.synthesis.shapes import KINDS, Outline, ShapeKind, grain, hexagon, hollow
from libradet.errors import UserError
from libradet.utils.arguments import check_arguments
from libradet.utils.atomic_io import atomic_folder, write_json
from libradet.utils.ranges import Seed

MIN_SIDE = 12
"""Size of the smallest object, in pixels."""

MAX_SIDE = 65_500
"""Largest side of a JPEG file, in pixels."""

MIN_VISIBLE = 0.35
"""Minimum visible share of an object: it is not placed where it, or one below it, would show less."""


MAX_SKEW, MAX_HARD_NEGATIVES = 5.0, 5.0
"""Upper limits: beyond them, an image has one class, or no space for its objects."""


class Shape(NamedTuple):
    """A shape to draw: ``label`` -1 marks a distractor, which only resembles an object."""

    label: int
    outline: Outline
    kind: ShapeKind
    radius: float


class Imbalance(NamedTuple):
    """Imbalance of a split; by default none.

    Attributes:
        class_skew: Zipf's exponent: objects of the k-th class are drawn in proportion to k^-``class_skew``.
        hard_negatives: mean number of added distractors for each drawn object: outline and colors of a class, without
            its surface. They come in addition to the one to three distractors of every image.
    """

    class_skew: float = 0.0
    hard_negatives: float = 0.0


BALANCED = Imbalance()
"""All classes equally often, and no added distractors."""


class Scene(NamedTuple):
    """An image in progress: ``pixels`` 0..255, and the number of the visible object at each pixel (-1: none)."""

    pixels: Float32[ndarray, "h w 3"]
    owner: Int64[ndarray, "h w"]
    full: list[int]
    labels: list[int]


@check_arguments
def synthesize(
    output_dir: Path | str,
    *,
    train: int = 240,
    val: int = 60,
    size: tuple[int, int] = (320, 256),
    classes: int = 5,
    seed: Seed = 0,
    class_skew: float = 0.0,
    hard_negatives: float = 0.0,
) -> None:
    """Write ``train.json``, ``val.json`` and ``images/`` (boxes and masks of visible parts).

    Args:
        output_dir: folder to write.
        train, val: numbers of images.
        size: width and height in pixels.
        classes: number of classes, 1 to 8.
        seed: of all random draws.
        class_skew: see :class:`Imbalance`; of the training split. Validation images have all classes equally often, so
            that rare ones can be measured.
        hard_negatives: see :class:`Imbalance`; of both splits.

    Raises:
        UserError: a number is out of range, or ``output_dir`` already holds a dataset.
    """
    if not 1 <= classes <= len(KINDS):
        raise UserError(f"classes is {classes}: choose 1 to {len(KINDS)}.")
    if min(size) < 6 * MIN_SIDE or max(size) > MAX_SIDE or min(train, val) < 1:
        raise UserError(
            f"size {size[0]}x{size[1]}, {train} + {val} images: images need {6 * MIN_SIDE} to {MAX_SIDE} pixels on "
            "each side, and each split at least one image."
        )
    if not (0 <= class_skew <= MAX_SKEW and 0 <= hard_negatives <= MAX_HARD_NEGATIVES):
        raise UserError(
            f"class_skew is {class_skew} and hard_negatives {hard_negatives}: choose 0 to {MAX_SKEW} and "
            f"0 to {MAX_HARD_NEGATIVES}."
        )
    output_dir = Path(output_dir)
    _require_no_dataset(output_dir)
    imbalances = {"train": Imbalance(class_skew, hard_negatives), "val": Imbalance(0.0, hard_negatives)}
    with atomic_folder(output_dir / "images") as images:
        records = {
            split: _write_split(images, split, count, size, classes, [seed, number], imbalances[split])
            for number, (split, count) in enumerate({"train": train, "val": val}.items())
        }
    for split, content in records.items():
        write_json(output_dir / f"{split}.json", content)


def _require_no_dataset(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; name a new or empty folder.")
    images = folder / "images"
    present = [name for name in ("train.json", "val.json") if (folder / name).exists()]
    present += ["images"] if images.exists() and any(images.iterdir()) else []
    if not present and contains_dataset(folder):
        present = ["other annotation files"]
    if present:
        raise UserError(f"{folder}: already holds a dataset ({', '.join(present)}); name a new or empty folder.")


def _write_split(
    folder: Path,
    split: str,
    count: int,
    size: tuple[int, int],
    classes: int,
    seed: list[int],
    imbalance: Imbalance,
) -> dict:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        name = f"{split}_{number:05d}.jpg"
        pixels, objects = draw_scene(np.random.default_rng([*seed, number]), size, classes, imbalance)
        Image.fromarray(pixels).save(folder / name, quality=92)
        images.append({"id": number + 1, "file_name": name, "width": size[0], "height": size[1]})
        for record in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": number + 1, **record})
    categories = [{"id": i, "name": kind.name} for i, kind in enumerate(KINDS[:classes], start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def draw_scene(
    rng: np.random.Generator, size: tuple[int, int], classes: int, imbalance: Imbalance = BALANCED
) -> tuple[UInt8[ndarray, "h w 3"], list[dict]]:
    """Return an image and the annotations of its objects."""
    width, height = size
    scene = Scene(_background(rng, width, height), np.full((height, width), -1, np.int64), [], [])
    shapes = _choose_shapes(rng, min(size), classes, imbalance)
    light = rng.uniform(0, 2 * np.pi)
    for shape in shapes:
        for _ in range(12):
            if _place(scene, shape, rng, light):
                break
    return _add_camera_effects(scene.pixels, rng), _annotate(scene)


def _choose_shapes(rng: np.random.Generator, side: int, classes: int, imbalance: Imbalance) -> list[Shape]:
    """Draw objects and distractors, largest first, so that small ones stay visible."""
    shapes = []
    for _ in range(rng.integers(3, 9)):
        label = _draw_label(rng, classes, imbalance.class_skew)
        shapes.append(Shape(label, KINDS[label].outline, KINDS[label], _radius(rng, side)))
    num_objects = len(shapes)
    for _ in range(rng.integers(1, 4)):
        kind = KINDS[int(rng.integers(classes))]
        outline = hollow(kind.outline) if rng.random() < 0.5 else hexagon
        shapes.append(Shape(-1, outline, kind._replace(surface=grain), _radius(rng, side)))
    if imbalance.hard_negatives:
        # Rounded down or up at random, so that the mean is exact.
        for _ in range(int(num_objects * imbalance.hard_negatives + rng.random())):
            kind = KINDS[int(rng.integers(classes))]
            shapes.append(Shape(-1, kind.outline, kind._replace(surface=grain), _radius(rng, side)))
    return sorted(shapes, key=lambda shape: -shape.radius)


def _draw_label(rng: np.random.Generator, classes: int, skew: float) -> int:
    if not skew:
        return int(rng.integers(classes))
    weights = np.arange(1, classes + 1) ** -float(skew)
    return int(rng.choice(classes, p=weights / weights.sum()))


def _radius(rng: np.random.Generator, side: int) -> float:
    """Draw half of a size between MIN_SIDE and half the image's short side; medium sizes are more likely."""
    return MIN_SIDE / 2 * 1.1 * (side / 2 / MIN_SIDE / 1.1) ** rng.beta(1.7, 1.5)


def _place(scene: Scene, shape: Shape, rng: np.random.Generator, light: float) -> bool:
    """Draw a shape at a random place, unless it would hide too much of another or be truncated too much."""
    height, width = scene.owner.shape
    center = int(rng.integers(width)), int(rng.integers(height))
    turn, stretch = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(-0.2, 0.2))
    reach = int(np.ceil(shape.radius * 1.5)) + 2
    y, x = np.mgrid[-reach:reach, -reach:reach].astype(np.float32)
    u, v = _own_coordinates(x, y, turn, stretch, shape.radius)
    cover = np.clip(0.5 - shape.outline(u, v) * shape.radius, 0, 1).astype(np.float32)
    whole = int((cover > 0.5).sum())
    region, part = _overlap(center, reach, scene.owner.shape)
    u, v, cover = u[part], v[part], cover[part]
    solid = cover > 0.5
    if not _can_place(scene, region, solid, whole):
        return False
    _draw_shadow(scene.pixels[region], shape, u, v, light - turn)
    color = _color(shape, u, v, rng, light - turn)
    scene.pixels[region] += cover[..., None] * (color - scene.pixels[region])
    scene.owner[region][solid] = len(scene.labels) if shape.label >= 0 else -1
    if shape.label >= 0:
        scene.full.append(whole)
        scene.labels.append(shape.label)
    return True


def _own_coordinates(x: ndarray, y: ndarray, turn: float, stretch: float, radius: float) -> tuple[ndarray, ndarray]:
    cos, sin = np.cos(turn), np.sin(turn)
    return (cos * x + sin * y) / radius * stretch, (cos * y - sin * x) / radius / stretch


def _overlap(
    center: tuple[int, int], reach: int, shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return rows and columns of the image that a square around ``center`` covers, and those of the square."""
    region, part = [], []
    for middle, limit in zip(center[::-1], shape, strict=True):
        first, last = max(0, middle - reach), min(limit, middle + reach)
        region.append(slice(first, last))
        part.append(slice(first - middle + reach, last - middle + reach))
    return (region[0], region[1]), (part[0], part[1])


def _can_place(scene: Scene, region: tuple[slice, slice], solid: Bool[ndarray, "a b"], whole: int) -> bool:
    """Return whether enough of a shape is inside the image, it is large enough, and objects below stay visible."""
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    if solid.sum() < MIN_VISIBLE * whole or min(np.ptp(rows), np.ptp(columns)) + 1 < MIN_SIDE * 0.75:
        return False
    hidden = np.bincount(scene.owner[region][solid] + 1, minlength=len(scene.labels) + 1)[1:]
    visible = np.bincount(scene.owner.ravel() + 1, minlength=len(scene.labels) + 1)[1:]
    return bool((visible - hidden >= MIN_VISIBLE * np.array(scene.full)).all())


def _draw_shadow(pixels: Float32[ndarray, "a b 3"], shape: Shape, u: ndarray, v: ndarray, light: float) -> None:
    """Draw a soft shadow on the side away from the light."""
    distance = shape.outline(u + 0.12 * np.cos(light), v + 0.12 * np.sin(light))
    pixels *= 1 - 0.45 * np.clip(0.5 - distance * 4, 0, 1)[..., None].astype(np.float32)


def _color(shape: Shape, u: ndarray, v: ndarray, rng: np.random.Generator, light: float) -> Float32[ndarray, "a b 3"]:
    """Return the surface in the class's two colors, slightly varied, brighter towards the light."""
    first, second = (np.array(c) + rng.normal(0, 14, 3) for c in shape.kind.colors)
    share = shape.kind.surface(u, v)[..., None]
    bright = 0.9 + 0.22 * (u * np.cos(light) + v * np.sin(light))
    return ((first + share * (second - first)) * np.clip(bright, 0.55, 1.25)[..., None]).astype(np.float32)


def _background(rng: np.random.Generator, width: int, height: int) -> Float32[ndarray, "h w 3"]:
    """Return a background of clouds in two dull colors with a fine pattern."""
    base = rng.uniform(70, 190)
    dark, bright = (base + shift + rng.normal(0, 16, 3) for shift in (-25, 25))
    clouds = np.sum([_clouds(rng, width, height, cells) / cells for cells in (3, 7, 15, 31)], axis=0)
    clouds = (clouds - clouds.min()) / np.ptp(clouds)
    pixels = dark + clouds[..., None] * (bright - dark)
    return (pixels + _pattern(rng, width, height)[..., None] * rng.uniform(4, 18)).astype(np.float32)


def _clouds(rng: np.random.Generator, width: int, height: int, cells: int) -> Float32[ndarray, "h w"]:
    """Return smooth noise with ``cells`` bumps across."""
    grid = rng.normal(size=(cells + 1, cells + 1)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


def _pattern(rng: np.random.Generator, width: int, height: int) -> ndarray:
    """Return stripes, weave, ripples or grain, -1..1."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    turn, period = rng.uniform(0, np.pi), rng.uniform(5, 24)
    u, v = (np.cos(turn) * x + np.sin(turn) * y) / period, (np.cos(turn) * y - np.sin(turn) * x) / period
    match int(rng.integers(4)):
        case 0:
            return np.sin(2 * np.pi * u)
        case 1:
            return np.sin(2 * np.pi * u) * np.sin(2 * np.pi * v)
        case 2:
            return np.sin(2 * np.pi * u + 2 * _clouds(rng, width, height, 6))
        case _:
            return np.clip(_clouds(rng, width, height, 60), -1, 1)


def _add_camera_effects(pixels: Float32[ndarray, "h w 3"], rng: np.random.Generator) -> UInt8[ndarray, "h w 3"]:
    """Add uneven light, exposure, color cast and sensor noise."""
    height, width = pixels.shape[:2]
    light = 1 + 0.16 * np.clip(_clouds(rng, width, height, 2), -2, 2)[..., None]
    cast = rng.uniform(0.75, 1.15) * rng.uniform(0.94, 1.06, 3)
    grains = rng.normal(0, rng.uniform(1, 7), pixels.shape)
    return np.clip(pixels * light * cast + grains, 0, 255).astype(np.uint8)


def _annotate(scene: Scene) -> list[dict[str, Any]]:
    """Return boxes and masks of the visible part of every object."""
    annotations = []
    for number, label in enumerate(scene.labels):
        visible = scene.owner == number
        rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
        box = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
        run_lengths = rle.encode(visible.astype(np.uint8))
        annotations.append(
            {
                "category_id": label + 1,
                "bbox": [int(side) for side in box],
                "area": int(visible.sum()),
                "iscrowd": 0,
                "segmentation": run_lengths | {"counts": run_lengths["counts"].decode("ascii")},
            }
        )
    return annotations
