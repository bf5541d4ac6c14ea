"""Generated datasets in the formats of annotation tools: labelme, Datumaro, Hugging Face's imagefolder, CVAT."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stress.fuzz_records import SIZES, check_and_use, link_images
from stress.mutation import HOSTILE, Rng, damage_bytes, mutate_tree, pick


def tools(rng: Rng, base: Path, folder: Path, canary: Path) -> str | None:
    """Generate and read a dataset of one of the tools, mutated as a tree or as bytes."""
    return pick(rng, [_labelme, _datumaro, _imagefolder, _cvat])(rng, base, folder)


def _boxes(rng: Rng, row: int) -> list[list[float]]:
    sides = SIZES[row]
    low, high = rng.uniform(0, 0.5, (3, 2)) * sides, rng.uniform(0.5, 1, (3, 2)) * sides
    return np.concatenate([low, high - low], 1).round(2).tolist()


def _mutated(rng: Rng, content: Any) -> bytes:
    content = mutate_tree(rng, content, int(rng.integers(0, 4)))
    text = json.dumps(content, ensure_ascii=bool(rng.integers(2))).encode("utf-8", "surrogatepass")
    return damage_bytes(rng, text) if rng.random() < 0.15 else text


def _labelme(rng: Rng, base: Path, folder: Path) -> str | None:
    names = link_images(rng, base, folder)
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 2, (6, 5), np.uint8) * 255).save(stream, "PNG")
    png = base64.b64encode(stream.getvalue()).decode()
    for row, name in enumerate(names):
        shapes = []
        for x, y, w, h in _boxes(rng, row):
            kind = str(pick(rng, ["rectangle", "polygon", "circle", "mask", "point", "oriented_rectangle"]))
            corners = [[x, y], [x + w, y], [x + w, y + h]]
            points = corners if kind in ("polygon", "oriented_rectangle") else corners[::2]
            shape = {"label": str(pick(rng, ["cat", "dog"])), "points": points, "shape_type": kind, "flags": {}}
            shapes.append(shape | {"group_id": pick(rng, [None, 1]), "mask": png if kind == "mask" else None})
        width, height = SIZES[row]
        content = {"shapes": shapes, "imagePath": name, "imageData": None, "imageWidth": width, "imageHeight": height}
        stem = "file" if "\x00" in name else Path(name).stem
        (folder / f"{stem}.json").write_bytes(_mutated(rng, content))
    return check_and_use(folder, None)


def _datumaro(rng: Rng, base: Path, folder: Path) -> str | None:
    names = link_images(rng, base, folder / "images" / "train")
    items = []
    for row, name in enumerate(names):
        annotations: list[dict[str, Any]] = []
        for x, y, w, h in _boxes(rng, row):
            known = {"id": 0, "attributes": {"is_crowd": bool(rng.integers(2))}, "label_id": int(rng.integers(2))}
            known |= {"group": int(rng.integers(3))}
            polygon = [x, y, x + w, y, x + w, y + h]
            size = [SIZES[row][1], SIZES[row][0]]
            rle = {"size": size, "counts": [10, 20, size[0] * size[1] - 30]}
            kinds = ("bbox", {"bbox": [x, y, w, h]}), ("polygon", {"points": polygon}), ("mask", {"rle": rle})
            kind, fields = kinds[int(rng.integers(3))]
            annotations.append(known | {"type": kind} | fields)
        image = {"path": name, "size": [SIZES[row][1], SIZES[row][0]]}
        items.append({"id": name, "annotations": annotations, "image": image, "attr": {"id": row}})
    labels = {"label": {"labels": [{"name": "cat"}, {"name": "dog"}]}}
    (folder / "annotations").mkdir()
    text = _mutated(rng, {"dm_format_version": "1.0", "categories": labels, "items": items})
    (folder / "annotations" / "train.json").write_bytes(text)
    return check_and_use(folder, None)


def _imagefolder(rng: Rng, base: Path, folder: Path) -> str | None:
    names = link_images(rng, base, folder / "train")
    rows = []
    for row, name in enumerate(names):
        boxes, labels = _boxes(rng, row), [pick(rng, ["cat", "dog", 0, 1]) for _ in range(3)]
        forms: list[Any] = [
            {"bbox": boxes, "categories": labels},
            [{"bbox": box, "category": label} for box, label in zip(boxes, labels, strict=True)],
            json.dumps({"bbox": boxes, "category": labels}),
        ]
        rows.append({"file_name": name, "objects": pick(rng, forms)})
    rows = mutate_tree(rng, rows, int(rng.integers(0, 4)))
    lines = [json.dumps(row) for row in rows] if isinstance(rows, list) else [json.dumps(rows)]
    text = "\n".join(lines).encode("utf-8", "surrogatepass")
    (folder / "train" / "metadata.jsonl").write_bytes(damage_bytes(rng, text) if rng.random() < 0.15 else text)
    return check_and_use(folder, None)


def _cvat(rng: Rng, base: Path, folder: Path) -> str | None:
    link_images(rng, base, folder / "images")
    images = ""
    for row, name in enumerate(("p0.png", "with space.png")):
        shapes = ""
        for x, y, w, h in _boxes(rng, row):
            box = f'xtl="{x}" ytl="{y}" xbr="{x + w}" ybr="{y + h}" rotation="{rng.integers(2) * 30}"'
            polygon = f'points="{x},{y};{x + w},{y};{x + w},{y + h}"'
            mask = 'rle="1, 5, 6" left="3" top="4" width="4" height="3"'
            ellipse = f'cx="{x}" cy="{y}" rx="{w}" ry="{h}"'
            forms = [f"<box label='cat' {box}/>", f"<polygon label='dog' {polygon}/>"]
            forms += [f"<mask label='cat' {mask}/>", f"<ellipse label='dog' {ellipse}/>", "<points label='cat'/>"]
            shapes += str(pick(rng, forms))
        images += f'<image id="{row}" name="{name}" width="{SIZES[row][0]}" height="{SIZES[row][1]}">{shapes}</image>'
    labels = "<labels><label><name>cat</name></label><label><name>dog</name></label></labels>"
    text = f"<annotations><meta><task>{labels}</task></meta>{images}</annotations>"
    for _ in range(int(rng.integers(0, 3))):
        match = pick(rng, list(re.finditer(r'="([^"]*)"', text)))
        value = str(pick(rng, HOSTILE)).encode("utf-8", "replace").decode().replace("&", "").replace("<", "")
        text = text[: match.start(1)] + value.replace('"', "") + text[match.end(1) :]
    content = text.encode()
    content = damage_bytes(rng, content) if rng.random() < 0.15 else content
    (folder / str(pick(rng, ["annotations.xml", "train.xml"]))).write_bytes(content)
    return check_and_use(folder, None)
