"""Generated datasets and configurations: COCO JSON, YOLO text, Pascal VOC XML, libradet YAML."""

import copy
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from rich.console import Console

from libradet.data.formats.coco import to_coco
from libradet.data.formats.detect import list_splits
from libradet.data.loader import make_loader
from libradet.data.masks import decode_masks
from libradet.data.proposals.mmdetection import read_pickle  # noqa: F401 (imported before the worker is forked)
from libradet.data.read import check, read
from libradet.data.records import Dataset
from libradet.data.validation.report import Report
from libradet.errors import UserError
from libradet.training.options import parse_train
from stress.common import TINY_CONFIG
from stress.mutation import Rng, damage_bytes, mutate_tree, pick

SIZES = [(64, 48), (48, 64), (50, 50), (64, 48)]
NAMES = ["p0.png", "with space.png", "ü ö 漢字.png", "new\nline.png"]
NASTY = [os.fsdecode(b"bad\xff\xfe.png"), "a;b&c.png", "-rf.png", "%s%n.png", "[red]x.png", "'q'.png", '"q".png']


def prepare(base: Path) -> None:
    """Write the images that all attempts share."""
    folder = base / "images"
    folder.mkdir()
    for i, name in enumerate([*NAMES, *NASTY]):
        width, height = SIZES[i % 4]
        y, x = np.mgrid[:height, :width]
        pixels = np.stack([255 * x / width, 255 * y / height, 40 * i + 0 * x], 2).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (base / "outside").mkdir()
    Image.new("RGB", (30, 20)).save(base / "outside" / "elsewhere.png")


def link_images(rng: Rng, base: Path, home: Path) -> list[str]:
    """Link the images of a dataset; some names are unusual, some links lead outside or nowhere. Return the names."""
    home.mkdir(parents=True, exist_ok=True)
    names = list(NAMES)
    names[3] = pick(rng, [NAMES[3], *NASTY])
    sources = {name: base / "images" / name for name in names}
    how = rng.random()
    if how < 0.1:
        sources[names[2]] = base / "outside" / "elsewhere.png"
    elif how < 0.15:
        sources[names[2]] = base / "nowhere.png"
    elif how < 0.2:
        sources[names[2]] = home / names[2]  # a link to itself
    for name, source in sources.items():
        (home / name).symlink_to(source)
    return names


def coco(rng: Rng, base: Path, folder: Path, canary: Path) -> str | None:
    """Generate and read a COCO dataset whose JSON is mutated as a tree or as bytes."""
    names = link_images(rng, base, folder / "images")
    content = _records(rng, names)
    if rng.random() < 0.85:
        content = mutate_tree(rng, content, int(rng.integers(0, 5)))
    text = json.dumps(content, ensure_ascii=bool(rng.integers(2))).encode("utf-8", "surrogatepass")
    if rng.random() < 0.2:
        text = pick(rng, [damage_bytes(rng, text), b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe" + text, b"1" * 5000])
    name = pick(rng, ["annotations.json", "train.json", "annotations/instances_train2017.json"])
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text)
    return check_and_use(folder, lambda: _count_coco(text))


def _records(rng: Rng, names: list[str]) -> dict[str, Any]:
    images = [{"id": 10 + i, "file_name": n, "width": SIZES[i][0], "height": SIZES[i][1]} for i, n in enumerate(names)]
    annotations = []
    for i in range(int(rng.integers(1, 9))):
        row = int(rng.integers(4))
        w, h = (float(rng.uniform(1, side)) for side in SIZES[row])
        x, y = (float(rng.uniform(0, side - s)) for side, s in zip(SIZES[row], (w, h), strict=True))
        box = {"id": 100 + i, "image_id": 10 + row, "category_id": int(pick(rng, [1, 7, 9])), "bbox": [x, y, w, h]}
        box |= {"area": w * h, "iscrowd": int(rng.random() < 0.1)}
        if rng.random() < 0.5:
            box["segmentation"] = [[x, y, x + w, y, x + w, y + h]]
        annotations.append(box)
    categories = [{"id": 7, "name": "dog"}, {"id": 1, "name": "cat"}, {"id": 9, "name": "hen"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def _count_coco(text: bytes) -> tuple[int, int]:
    content = json.loads(text.removeprefix(b"\xef\xbb\xbf"))
    return len(content["images"]), len(content["annotations"])


def yolo(rng: Rng, base: Path, folder: Path, canary: Path) -> str | None:
    """Generate and read a YOLO dataset: data.yaml and label files."""
    names = link_images(rng, base, folder / "images" / "train")
    config: dict[str, Any] = {"train": "images/train", "names": ["cat", "dog"], "nc": 2}
    if rng.random() < 0.5:
        config = mutate_tree(rng, config, int(rng.integers(1, 3)))
    text = _yaml(rng, config)
    (folder / "data.yaml").write_bytes(text)
    labels = folder / "labels" / "train"
    labels.mkdir(parents=True)
    for name in names:
        lines = "\n".join(_label(rng) for _ in range(int(rng.integers(5)))).encode("utf-8", "surrogateescape")
        if rng.random() < 0.2:
            lines = damage_bytes(rng, lines)
        (labels / name).with_suffix(".txt").write_bytes(lines)
    if rng.random() < 0.2:
        listed = "\n".join(f"images/train/{name}" for name in names).encode("utf-8", "surrogateescape")
        (folder / "list.txt").write_bytes(damage_bytes(rng, listed))
        (folder / "data.yaml").write_bytes(text.replace(b"images/train", b"list.txt"))
        return check_and_use(folder, None)

    def count() -> tuple[int, int]:
        files = [(labels / name).with_suffix(".txt").read_text("utf-8", "replace") for name in names]
        return 4, sum(bool(line.strip()) for text in files for line in text.splitlines())

    usual = config.get("train") == "images/train" and b"images/train" in text
    return check_and_use(folder, count if usual else None)


def _yaml(rng: Rng, config: Any) -> bytes:
    how = rng.random()
    if how < 0.75:
        try:
            text = yaml.safe_dump(config, allow_unicode=True).encode("utf-8", "surrogatepass")
        except (yaml.YAMLError, ValueError):
            text = json.dumps(config).encode()
        return text if how < 0.6 else damage_bytes(rng, text)
    bomb = "a0: &a0 [x,x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1},*a{i - 1}]\n" for i in range(1, 40))
    hostile = [
        b"[" * 5000,
        b"{a: " * 3000,
        f"{bomb}train: *a39\nnames: [a, b]\n".encode(),
        f"{bomb}names: *a39\ntrain: images\n".encode(),
        b"train: 2020-13-45\nnames: [a]",
        b"train: !!int ''\nnames: [a]",
        b"train: !!bool x\nnames: [a]",
        b"? [a]\n: b\n",
        b"!!python/object/apply:os.system ['touch canary']",
        b"train: images\nnc: 1000000000\n",
        b"train: !!timestamp x",
        b"train: &t [*t]\nnames: [a]\n",
        b"train: images/train\nnames: {\xc2\xb2: a}\n",
        b"train: 0b\nnames: [a]",
        b"train: \x00",
        b"train: images/train\nnames: {9" + b"9" * 5000 + b": a}\n",
        b"train: " + b"x" * 5000 + b"\nnames: [a]\n",
    ]
    return pick(rng, hostile)


def _label(rng: Rng) -> str:
    if rng.random() < 0.6:
        return f"{rng.integers(3)} " + " ".join(f"{v:.4f}" for v in rng.uniform(0, 1, 4))
    if rng.random() < 0.3:
        return f"{rng.integers(2)} " + " ".join(f"{v:.4f}" for v in rng.uniform(0, 1, 2 * rng.integers(1, 6)))
    tokens = ["0", "1", "-1", "nan", "inf", "1e400", "0.5", "x", "1_0", "٣", "9" * 5000, "\x00", "1e30", "-5", "#"]
    return " ".join(pick(rng, tokens) for _ in range(int(rng.integers(8))))


def voc(rng: Rng, base: Path, folder: Path, canary: Path) -> str | None:
    """Generate and read a Pascal VOC dataset, with some invalid XML files."""
    names = link_images(rng, base, folder / "JPEGImages")
    (folder / "Annotations").mkdir()
    valid, objects = True, 0
    for i, name in enumerate(names):
        count = int(rng.integers(4))
        text = _xml(rng, name, SIZES[i], count).encode("utf-8", "surrogateescape")
        if rng.random() < 0.3:
            text, valid = pick(rng, [damage_bytes(rng, text), *_XML]), False
        objects += count
        stem = "file" if "\x00" in name else Path(name).stem
        (folder / "Annotations" / f"{stem}.xml").write_bytes(text)
    if rng.random() < 0.3:
        lists = folder / "ImageSets" / "Main"
        lists.mkdir(parents=True)
        listed = "\n".join(Path(name).stem for name in names).encode("utf-8", "surrogateescape")
        (lists / "train.txt").write_bytes(damage_bytes(rng, listed))
        valid = False
    return check_and_use(folder, (lambda: (4, objects)) if valid else None)


_LAUGHS = '<!DOCTYPE l [<!ENTITY a0 "haha">' + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
_XML = [
    f"<?xml version='1.0'?>{_LAUGHS}]><annotation><filename>&a11;</filename></annotation>".encode(),
    b"<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><annotation><filename>&x;</filename></annotation>",
    b"<!DOCTYPE a SYSTEM 'http://127.0.0.1:9/x.dtd'><annotation/>",
    b"<?xml version='1.0' encoding='utf-7'?><annotation/>",
    b"<?xml version='1.0' encoding='nonsense'?><annotation/>",
    b"<?xml version='1.0' encoding='utf-16'?><annotation/>",
    "<?xml version='1.0' encoding='utf-16'?><annotation/>".encode("utf-16"),
    b"<a>" * 100_000,
    b"<a>" * 50_000 + b"</a>" * 50_000,
    b"<annotation>" + b"<object><name>" + b"x" * 100_000 + b"</name></object></annotation>",
    b"<annotation><object><name>a</name><bndbox><xmin>1e999</xmin></bndbox></object></annotation>",
    b"<annotation><filename>" + b"x" * 400 + b"/y.png</filename></annotation>",
    b"",
]


def _xml(rng: Rng, name: str, size: tuple[int, int], count: int) -> str:
    escaped = name.replace("&", "&amp;").replace("<", "&lt;").encode("utf-8", "replace").decode()
    objects = ""
    for _ in range(count):
        x1, y1, x2, y2 = (f"{v:.1f}" for v in rng.uniform(-5, 70, 4))
        if rng.random() < 0.2:
            x1 = str(pick(rng, ["", "nan", "inf", "x", "1e400", "-1"]))
        objects += (
            f"<object><name>{pick(rng, ['cat', 'dog', '[red]', ' hen '])}</name><difficult>{rng.integers(2)}"
            f"</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        )
    width, height = size if rng.random() < 0.9 else (pick(rng, ["", "x", "-1", "1e400", "9" * 5000]), size[1])
    shown = f"<size><width>{width}</width><height>{height}</height></size>"
    return f"<annotation><filename>{escaped}</filename>{shown}{objects}</annotation>"


def check_and_use(folder: Path, count: Any) -> str | None:
    """Check, read and use a dataset; no record may be dropped without being counted."""
    splits = list_splits(folder)
    report = check(folder, skip_broken=len(splits) % 2 == 1, decode=True)
    _show(report)
    for split in splits:
        dataset, report = read(folder, split, strict=False, training=False, skip_broken=True)
        if report.errors:
            raise UserError("\n".join(report.errors))
        if count is not None and (fault := _find_dropped(report, *count())):
            return fault
        _use(dataset)
    return None


def _find_dropped(report: Any, images: int, boxes: int) -> str | None:
    skipped = {
        part: sum(s["count"] for s in report.skipped if s["reason"].startswith(part)) for part in ("box", "image")
    }
    if report.images + skipped["image"] != images:
        return f"{images} images in the file, {report.images} read, {skipped['image']} skipped: some were dropped"
    if report.boxes + skipped["box"] != boxes:
        return f"{boxes} boxes in the file, {report.boxes} read, {skipped['box']} skipped: some were dropped"
    return None


def _use(dataset: Dataset) -> None:
    """Use a checked dataset: batches, masks, annotations."""
    _write(to_coco(dataset))
    for image in dataset.images:
        inside = (image.boxes >= 0).all() and (image.boxes[:, 2:] <= [image.width, image.height]).all()
        if not (np.isfinite(image.boxes).all() and inside):
            raise AssertionError(f"boxes outside their image: {image.boxes}")
        if image.segmentations and all(s is not None for s in image.segmentations):
            decode_masks(image, image.height, image.width)
    if dataset.images:
        for _ in make_loader(dataset, size=(32, 64), batch_size=2, training=False, size_divisible=32):
            pass


def _write(content: Any) -> None:
    """Write as files of results are written, and read again."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    if json.loads(text.encode("utf-8", "backslashreplace")) != json.loads(json.dumps(content)):
        raise AssertionError("JSON differs after writing and reading")


def _show(report: Report) -> None:
    _write(report.to_json())
    terminal = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")
    Console(file=terminal).print(report.render("x"))


def config(rng: Rng, base: Path, folder: Path, canary: Path) -> str | None:
    """Generate and read settings of a new run or of one to resume."""
    valid = yaml.safe_load(TINY_CONFIG.read_text())
    content = mutate_tree(rng, copy.deepcopy(valid | {"data": "x"}), int(rng.integers(0, 4)))
    name = folder / "config.yaml"
    name.write_bytes(_yaml(rng, content))
    try:
        parse_train(["--resume", str(folder)] if rng.integers(2) else ["--config", str(name), "--data", "x"])
    except SystemExit as error:
        return f"exits the program ({error.code})"
    return None
