"""Datasets and configurations by grammar: COCO's JSON, YOLO's text, Pascal VOC's XML, our YAML."""

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

from libradet.data.layouts.formats import find_layout
from libradet.data.loading.loader import make_loader
from libradet.data.proposals.pickles import read_pickle  # noqa: F401 (loaded before the worker is forked)
from libradet.data.rasterize import decode_masks
from libradet.data.read import Report, check, read, to_coco
from libradet.data.records import Dataset
from libradet.errors import UserError
from libradet.train_options import parse_train
from stress.mutate import Chance, damage, pick, tree

SIZES = [(64, 48), (48, 64), (50, 50), (64, 48)]
NAMES = ["p0.png", "with space.png", "ü ö 漢字.png", "new\nline.png"]
NASTY = [os.fsdecode(b"bad\xff\xfe.png"), "a;b&c.png", "-rf.png", "%s%n.png", "[red]x.png", "'q'.png", '"q".png']


def prepare(base: Path) -> None:
    """Images that all attempts share, and settings that are sound."""
    folder = base / "images"
    folder.mkdir()
    for i, name in enumerate([*NAMES, *NASTY]):
        width, height = SIZES[i % 4]
        y, x = np.mgrid[:height, :width]
        pixels = np.stack([255 * x / width, 255 * y / height, 40 * i + 0 * x], 2).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (base / "outside").mkdir()
    Image.new("RGB", (30, 20)).save(base / "outside" / "elsewhere.png")


def _bring(chance: Chance, base: Path, home: Path) -> list[str]:
    """Images of a dataset: sound names, perhaps a nasty one, perhaps links that lead out or nowhere."""
    home.mkdir(parents=True, exist_ok=True)
    names = list(NAMES)
    names[3] = pick(chance, [NAMES[3], *NASTY])
    sources = {name: base / "images" / name for name in names}
    how = chance.random()
    if how < 0.1:
        sources[names[2]] = base / "outside" / "elsewhere.png"
    elif how < 0.15:
        sources[names[2]] = base / "nowhere.png"
    elif how < 0.2:
        sources[names[2]] = home / names[2]  # a link to itself
    for name, source in sources.items():
        (home / name).symlink_to(source)
    return names


def coco(chance: Chance, base: Path, folder: Path, canary: Path) -> str | None:
    """COCO records, changed as a tree or as bytes, in a layout of their own."""
    names = _bring(chance, base, folder / "images")
    content = _records(chance, names)
    if chance.random() < 0.85:
        content = tree(chance, content, int(chance.integers(0, 5)))
    text = json.dumps(content, ensure_ascii=bool(chance.integers(2))).encode("utf-8", "surrogatepass")
    if chance.random() < 0.2:
        text = pick(chance, [damage(chance, text), b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe" + text, b"1" * 5000])
    name = pick(chance, ["annotations.json", "train.json", "annotations/instances_train2017.json"])
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text)
    return _look(folder, lambda: _count_coco(text))


def _records(chance: Chance, names: list[str]) -> dict[str, Any]:
    images = [{"id": 10 + i, "file_name": n, "width": SIZES[i][0], "height": SIZES[i][1]} for i, n in enumerate(names)]
    annotations = []
    for i in range(int(chance.integers(1, 9))):
        row = int(chance.integers(4))
        w, h = (float(chance.uniform(1, side)) for side in SIZES[row])
        x, y = (float(chance.uniform(0, side - s)) for side, s in zip(SIZES[row], (w, h), strict=True))
        box = {"id": 100 + i, "image_id": 10 + row, "category_id": int(pick(chance, [1, 7, 9])), "bbox": [x, y, w, h]}
        box |= {"area": w * h, "iscrowd": int(chance.random() < 0.1)}
        if chance.random() < 0.5:
            box["segmentation"] = [[x, y, x + w, y, x + w, y + h]]
        annotations.append(box)
    categories = [{"id": 7, "name": "dog"}, {"id": 1, "name": "cat"}, {"id": 9, "name": "hen"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def _count_coco(text: bytes) -> tuple[int, int]:
    content = json.loads(text.removeprefix(b"\xef\xbb\xbf"))
    return len(content["images"]), len(content["annotations"])


def yolo(chance: Chance, base: Path, folder: Path, canary: Path) -> str | None:
    """data.yaml and text files of labels."""
    names = _bring(chance, base, folder / "images" / "train")
    config: dict[str, Any] = {"train": "images/train", "names": ["cat", "dog"], "nc": 2}
    if chance.random() < 0.5:
        config = tree(chance, config, int(chance.integers(1, 3)))
    text = _yaml(chance, config)
    (folder / "data.yaml").write_bytes(text)
    labels = folder / "labels" / "train"
    labels.mkdir(parents=True)
    for name in names:
        lines = "\n".join(_label(chance) for _ in range(int(chance.integers(5)))).encode("utf-8", "surrogateescape")
        if chance.random() < 0.2:
            lines = damage(chance, lines)
        (labels / name).with_suffix(".txt").write_bytes(lines)
    if chance.random() < 0.2:
        listed = "\n".join(f"images/train/{name}" for name in names).encode("utf-8", "surrogateescape")
        (folder / "list.txt").write_bytes(damage(chance, listed))
        (folder / "data.yaml").write_bytes(text.replace(b"images/train", b"list.txt"))
        return _look(folder, None)

    def count() -> tuple[int, int]:
        files = [(labels / name).with_suffix(".txt").read_text("utf-8", "replace") for name in names]
        return 4, sum(bool(line.strip()) for text in files for line in text.splitlines())

    usual = config.get("train") == "images/train" and b"images/train" in text
    return _look(folder, count if usual else None)


def _yaml(chance: Chance, config: Any) -> bytes:
    how = chance.random()
    if how < 0.75:
        try:
            text = yaml.safe_dump(config, allow_unicode=True).encode("utf-8", "surrogatepass")
        except (yaml.YAMLError, ValueError):
            text = json.dumps(config).encode()
        return text if how < 0.6 else damage(chance, text)
    bomb = "a0: &a0 [x,x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1},*a{i - 1}]\n" for i in range(1, 40))
    hostile = [
        *[
            b"[" * 5000,
            b"{a: " * 3000,
            f"{bomb}train: *a39\nnames: [a, b]\n".encode(),
            f"{bomb}names: *a39\ntrain: images\n".encode(),
        ],
        *[
            b"train: 2020-13-45\nnames: [a]",
            b"train: !!int ''\nnames: [a]",
            b"train: !!bool x\nnames: [a]",
            b"? [a]\n: b\n",
        ],
        *[
            b"!!python/object/apply:os.system ['touch canary']",
            b"train: images\nnc: 1000000000\n",
            b"train: !!timestamp x",
        ],
        *[
            b"train: &t [*t]\nnames: [a]\n",
            b"train: images/train\nnames: {\xc2\xb2: a}\n",
            b"train: 0b\nnames: [a]",
            b"train: \x00",
        ],
        *[b"train: images/train\nnames: {9" + b"9" * 5000 + b": a}\n", b"train: " + b"x" * 5000 + b"\nnames: [a]\n"],
    ]
    return pick(chance, hostile)


def _label(chance: Chance) -> str:
    if chance.random() < 0.6:
        return f"{chance.integers(3)} " + " ".join(f"{v:.4f}" for v in chance.uniform(0, 1, 4))
    if chance.random() < 0.3:
        return f"{chance.integers(2)} " + " ".join(f"{v:.4f}" for v in chance.uniform(0, 1, 2 * chance.integers(1, 6)))
    tokens = ["0", "1", "-1", "nan", "inf", "1e400", "0.5", "x", "1_0", "٣", "9" * 5000, "\x00", "1e30", "-5", "#"]
    return " ".join(pick(chance, tokens) for _ in range(int(chance.integers(8))))


def voc(chance: Chance, base: Path, folder: Path, canary: Path) -> str | None:
    """XML files of objects, some of them not what they say."""
    names = _bring(chance, base, folder / "JPEGImages")
    (folder / "Annotations").mkdir()
    sound, objects = True, 0
    for i, name in enumerate(names):
        count = int(chance.integers(4))
        text = _xml(chance, name, SIZES[i], count).encode("utf-8", "surrogateescape")
        if chance.random() < 0.3:
            text, sound = pick(chance, [damage(chance, text), *_XML]), False
        objects += count
        stem = "file" if "\x00" in name else Path(name).stem
        (folder / "Annotations" / f"{stem}.xml").write_bytes(text)
    if chance.random() < 0.3:
        lists = folder / "ImageSets" / "Main"
        lists.mkdir(parents=True)
        listed = "\n".join(Path(name).stem for name in names).encode("utf-8", "surrogateescape")
        (lists / "train.txt").write_bytes(damage(chance, listed))
        sound = False
    return _look(folder, (lambda: (4, objects)) if sound else None)


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


def _xml(chance: Chance, name: str, size: tuple[int, int], count: int) -> str:
    escaped = name.replace("&", "&amp;").replace("<", "&lt;").encode("utf-8", "replace").decode()
    objects = ""
    for _ in range(count):
        x1, y1, x2, y2 = (f"{v:.1f}" for v in chance.uniform(-5, 70, 4))
        if chance.random() < 0.2:
            x1 = str(pick(chance, ["", "nan", "inf", "x", "1e400", "-1"]))
        objects += (
            f"<object><name>{pick(chance, ['cat', 'dog', '[red]', ' hen '])}</name><difficult>{chance.integers(2)}"
            f"</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        )
    width, height = size if chance.random() < 0.9 else (pick(chance, ["", "x", "-1", "1e400", "9" * 5000]), size[1])
    shown = f"<size><width>{width}</width><height>{height}</height></size>"
    return f"<annotation><filename>{escaped}</filename>{shown}{objects}</annotation>"


def _look(folder: Path, count: Any) -> str | None:
    """Check, read and use a dataset; nothing may be lost on the way."""
    layout = find_layout(folder)
    report = check(folder, skip_broken=bool(len(layout) % 2), decode=True)
    _show(report)
    for split in layout:
        dataset, report = read(folder, split, strict=False, training=False, skip_broken=True)
        if report.errors:
            raise UserError("\n".join(report.errors))
        if count is not None and (fault := _lost(report, *count())):
            return fault
        _use(dataset)
    return None


def _lost(report: Any, images: int, boxes: int) -> str | None:
    left = {part: sum(s["count"] for s in report.skipped if s["what"].startswith(part)) for part in ("box", "image")}
    if report.images + left["image"] != images:
        return f"{images} images in the file, {report.images} read, {left['image']} left out: some were dropped"
    if report.boxes + left["box"] != boxes:
        return f"{boxes} boxes in the file, {report.boxes} read, {left['box']} left out: some were dropped"
    return None


def _use(dataset: Dataset) -> None:
    """What checked data is used for: batches, masks, records."""
    _write(to_coco(dataset))
    for image in dataset.images:
        inside = (image.boxes >= 0).all() and (image.boxes[:, 2:] <= [image.width, image.height]).all()
        if not (np.isfinite(image.boxes).all() and inside):
            raise AssertionError(f"boxes that are not inside their image: {image.boxes}")
        if image.segmentations and all(s is not None for s in image.segmentations):
            decode_masks(image, image.height, image.width)
    if dataset.images:
        for _ in make_loader(dataset, size=(32, 64), batch_size=2, training=False, divisor=32):
            pass


def _write(content: Any) -> None:
    """As files of results are, and read again."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    if json.loads(text.encode("utf-8", "backslashreplace")) != json.loads(json.dumps(content)):
        raise AssertionError("what is written as JSON is not what is read")


def _show(report: Report) -> None:
    _write(report.to_json())
    terminal = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")
    Console(file=terminal).print(report.render("x"))


def config(chance: Chance, base: Path, folder: Path, canary: Path) -> str | None:
    """A file of settings, of a new run or of one to go on with."""
    sound = yaml.safe_load((Path(__file__).parents[1] / "tests" / "training" / "tiny.yaml").read_text())
    content = tree(chance, copy.deepcopy(sound | {"data": "x"}), int(chance.integers(0, 4)))
    name = folder / "config.yaml"
    name.write_bytes(_yaml(chance, content))
    try:
        parse_train(["--resume", str(folder)] if chance.integers(2) else ["--config", str(name), "--data", "x"])
    except SystemExit as error:
        return f"ends the program ({error.code})"
    return None
