"""Data that goes bad while it is trained on, or was never checked: each ends in a line or two, or is trained on.

Images that vanish, break or are exchanged in the middle of a run; crowds only; 1,000 objects in an image; images
of 1 x 20,000 pixels; coordinates that are no numbers; one class; classes that only the validation images have.
"""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

from PIL import Image

from libradet.data.synthesis.synthetic import synthesize
from stress.common import TINY, Book
from stress.launch import Ended, Running, launch
from stress.mutate import Chance, pick

Records = dict[str, Any]


class Case(NamedTuple):
    """One kind of bad data.

    Attributes:
        before: changes the records of the training split, and files in the dataset's folder.
        meanwhile: changes files while it is trained on.
        codes: in which it may end.
        says: words of which one has to be in what is said if it does not end well.
        options: of the run.
    """

    before: Callable[[Chance, Records, Path], None] = lambda *_: None
    meanwhile: Callable[[Chance, Path, Running], None] | None = None
    codes: tuple[int, ...] = (0,)
    says: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def main() -> int:
    """The campaign."""
    book = Book("bad_data", __doc__, short=len(CASES), long=10 * len(CASES))
    source = book.folder / "data"
    if not (source / "val.json").exists():
        shutil.rmtree(source, ignore_errors=True)
        synthesize(source, train=12, val=4, size=(144, 96), classes=2)
    for number in book.todo():
        name = list(CASES)[number % len(CASES)]
        book.note(number, name, attempt(book.chance(number), source, book.folder / "now", CASES[name]))
    return book.close()


def attempt(chance: Chance, source: Path, home: Path, case: Case) -> str | None:
    """What went wrong, if anything."""
    shutil.rmtree(home, ignore_errors=True)
    data, out = home / "data", home / "run"
    shutil.copytree(source, data)
    records = json.loads((data / "train.json").read_text())
    case.before(chance, records, data)
    (data / "train.json").write_text(json.dumps(records))
    model = pick(chance, ["faster_rcnn", "libra_faster_rcnn"])
    args = ["train", "--config", str(TINY), "--model", model, "--data", str(data), "--out", str(out)]
    args += ["--epochs", "400" if case.meanwhile else "1", "--eval_every", "400", "--save_steps", "1", *case.options]
    processes = 2 if "--devices" in case.options else 1
    meanwhile = None
    if case.meanwhile is not None:
        meanwhile = partial(_when_it_runs, partial(case.meanwhile, chance, data), out)
    return _judge(launch(args, home, processes=processes, meanwhile=meanwhile), case)


def _when_it_runs(act: Callable[[Running], None], out: Path, running: Running) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and running.alive:
        if (out / "metrics.csv").exists() and len((out / "metrics.csv").read_text().splitlines()) > 2:
            act(running)
            return
        time.sleep(0.02)


def _judge(ended: Ended, case: Case) -> str | None:
    said = " ".join(ended.said.split())
    if "Traceback" in said or None in ended.codes:
        return f"{ended.codes}: {said[-600:]}"
    wrong = any(code not in case.codes for code in ended.codes)
    if wrong or (0 not in ended.codes and not any(words in said for words in case.says)):
        return f"ends with {ended.codes}, not {case.codes}, or does not say {case.says}: {said[-400:]}"
    return None


def _images(data: Path) -> list[Path]:
    return sorted((data / "images").glob("train*"))


def _vanish(chance: Chance, data: Path, running: Running) -> None:
    for path in _images(data):
        path.unlink()


def _break(chance: Chance, data: Path, running: Running) -> None:
    for path in _images(data):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 3] if chance.integers(2) else chance.bytes(1000))


def _exchange(chance: Chance, data: Path, running: Running) -> None:
    for path in _images(data):
        Image.new("RGB", (200, 90)).save(path)


def _end_a_loader(chance: Chance, data: Path, running: Running) -> None:
    for child in running.children():
        os.kill(child, signal.SIGKILL)


def _crowds(chance: Chance, records: Records, data: Path) -> None:
    for record in records["annotations"]:
        record["iscrowd"] = 1


def _thousand(chance: Chance, records: Records, data: Path) -> None:
    first, classes = records["images"][0], [c["id"] for c in records["categories"]]
    for i in range(1000):
        x, y = float(chance.uniform(0, 130)), float(chance.uniform(0, 80))
        box = [x, y, float(chance.uniform(1, 14)), float(chance.uniform(1, 14))]
        more = {"id": 10**6 + i, "image_id": first["id"], "category_id": classes[i % 2]}
        records["annotations"].append(more | {"bbox": box, "area": box[2] * box[3], "iscrowd": 0})


def _thin(chance: Chance, records: Records, data: Path) -> None:
    for row, size in ((0, (1, 20_000)), (1, (20_000, 1)), (2, (1, 1))):
        record = records["images"][row]
        Image.new("RGB", size, "red").save(data / "images" / record["file_name"])
        record["width"], record["height"] = size
        for box in records["annotations"]:
            if box["image_id"] == record["id"]:
                box["bbox"] = [0, 0, *size]


def _numberless(chance: Chance, records: Records, data: Path) -> None:
    strange = [float("nan"), float("inf"), float("-inf"), None, "x", 1e300, -1e300, 10**400]
    for record in records["annotations"][::2]:
        record["bbox"][int(chance.integers(4))] = pick(chance, strange)


def _one_class(chance: Chance, records: Records, data: Path) -> None:
    kept = records["categories"][0]
    records["categories"] = [kept]
    for record in records["annotations"]:
        record["category_id"] = kept["id"]
    val = json.loads((data / "val.json").read_text())
    val["categories"] = [kept]
    val["annotations"] = [a | {"category_id": kept["id"]} for a in val["annotations"]]
    (data / "val.json").write_text(json.dumps(val))


def _unknown(chance: Chance, records: Records, data: Path, all_of_them: bool = False) -> None:
    val = json.loads((data / "val.json").read_text())
    for category in val["categories"] if all_of_them else val["categories"][:1]:
        category["name"], category["id"] = f"unknown_{category['id']}", category["id"] + 90
    known = [c["id"] for c in val["categories"]]
    val["annotations"] = [a | {"category_id": known[i % len(known)]} for i, a in enumerate(val["annotations"])]
    (data / "val.json").write_text(json.dumps(val))


def _background(chance: Chance, records: Records, data: Path) -> None:
    first = records["annotations"][0]["image_id"]
    records["annotations"] = [a for a in records["annotations"] if a["image_id"] == first]


def _gray_and_clear(chance: Chance, records: Records, data: Path) -> None:
    for record, mode in zip(records["images"], ("L", "P", "1", "CMYK", "LA", "RGBA"), strict=False):
        path = data / "images" / record["file_name"]
        with Image.open(path) as image:
            changed = image.convert("RGB").convert(mode)
        changed.save(path, "TIFF")


CASES: dict[str, Case] = {
    "vanish": Case(meanwhile=_vanish, codes=(2,), says=("is missing",)),
    "vanish, loaders": Case(meanwhile=_vanish, codes=(2,), says=("is missing",), options=("--workers", "2")),
    "vanish, processes": Case(meanwhile=_vanish, codes=(2,), says=("is missing",), options=("--devices", "2")),
    "break": Case(meanwhile=_break, codes=(2,), says=("cannot be decoded", "not in an image format")),
    "exchange": Case(meanwhile=_exchange, codes=(2,), says=("was exchanged",)),
    "end a loader": Case(meanwhile=_end_a_loader, codes=(2,), says=("loads images",), options=("--workers", "2")),
    "crowds": Case(_crowds, codes=(2,), says=("no boxes to train on",)),
    "thousand": Case(_thousand),
    "thin": Case(_thin),
    "numberless": Case(_numberless),
    "one class": Case(_one_class),
    "an unknown class": Case(_unknown, codes=(0, 2), says=("class", "categories")),
    "unknown classes": Case(partial(_unknown, all_of_them=True), codes=(2,), says=("class",)),
    "background": Case(_background),
    "modes": Case(_gray_and_clear),
}


if __name__ == "__main__":
    sys.exit(main())
