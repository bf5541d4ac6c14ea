"""Stress test of training on bad data: each case trains, or ends with an error of one or two lines.

Images deleted, corrupted or replaced during a run; only crowd annotations; 1,000 objects in an image; images of
1 x 20,000 pixels; coordinates that are not numbers; a single class; classes that only the validation split has.
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

from stress.common import TINY_CONFIG, AttemptLog
from stress.launcher import ProcessOutcome, Running, launch
from stress.mutation import Rng, pick
from stress.tiny_settings import make_tiny_dataset

Records = dict[str, Any]


class Case(NamedTuple):
    """One kind of bad data.

    Attributes:
        before: changes the annotations of the training split and files of the dataset before training.
        while_running: changes files during training.
        codes: exit codes that are allowed.
        messages: texts of which the output must contain one after a failure.
        options: further options of ``libradet train``.
    """

    before: Callable[[Rng, Records, Path], None] = lambda *_: None
    while_running: Callable[[Rng, Path, Running], None] | None = None
    codes: tuple[int, ...] = (0,)
    messages: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def main() -> int:
    """Run the stress test."""
    attempts = AttemptLog("bad_data", __doc__, short=len(CASES), long=10 * len(CASES))
    source = make_tiny_dataset(attempts.folder / "data")
    for number in attempts.pending():
        name = list(CASES)[number % len(CASES)]
        fault = run_case(attempts.rng(number), source, attempts.folder / "now", CASES[name])
        attempts.record(number, name, fault)
    return attempts.finish()


def run_case(rng: Rng, source: Path, home: Path, case: Case) -> str | None:
    """Train on a damaged copy of the data; return what went wrong, if anything."""
    shutil.rmtree(home, ignore_errors=True)
    data, out = home / "data", home / "run"
    shutil.copytree(source, data)
    records = json.loads((data / "train.json").read_text())
    case.before(rng, records, data)
    (data / "train.json").write_text(json.dumps(records))
    model = pick(rng, ["faster_rcnn", "libra_faster_rcnn"])
    args = ["train", "--config", str(TINY_CONFIG), "--model", model, "--data", str(data), "--output_dir", str(out)]
    args += ["--max_epochs", "400" if case.while_running else "1", "--check_val_every_n_epoch", "400"]
    args += ["--save_every_n_steps", "1", *case.options]
    processes = 2 if "--devices" in case.options else 1
    while_running = None
    if case.while_running is not None:
        while_running = partial(_once_training, partial(case.while_running, rng, data), out)
    return _find_fault(launch(args, home, processes=processes, while_running=while_running), case)


def _once_training(action: Callable[[Running], None], out: Path, running: Running) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and running.alive:
        if (out / "metrics.csv").exists() and len((out / "metrics.csv").read_text().splitlines()) > 2:
            action(running)
            return
        time.sleep(0.02)


def _find_fault(outcome: ProcessOutcome, case: Case) -> str | None:
    output = " ".join(outcome.output.split())
    if "Traceback" in output or None in outcome.codes:
        return f"{outcome.codes}: {output[-600:]}"
    if any(code not in case.codes for code in outcome.codes):
        return f"exit codes {outcome.codes} instead of {case.codes}: {output[-400:]}"
    if 0 not in outcome.codes and not any(message in output for message in case.messages):
        return f"the output contains none of {case.messages}: {output[-400:]}"
    return None


def _train_images(data: Path) -> list[Path]:
    return sorted((data / "images").glob("train*"))


def _delete_images(rng: Rng, data: Path, running: Running) -> None:
    for path in _train_images(data):
        path.unlink()


def _corrupt_images(rng: Rng, data: Path, running: Running) -> None:
    for path in _train_images(data):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 3] if rng.integers(2) else rng.bytes(1000))


def _replace_images(rng: Rng, data: Path, running: Running) -> None:
    for path in _train_images(data):
        Image.new("RGB", (200, 90)).save(path)


def _kill_loader(rng: Rng, data: Path, running: Running) -> None:
    for child in running.children():
        os.kill(child, signal.SIGKILL)


def _only_crowds(rng: Rng, records: Records, data: Path) -> None:
    for record in records["annotations"]:
        record["iscrowd"] = 1


def _thousand_objects(rng: Rng, records: Records, data: Path) -> None:
    first, classes = records["images"][0], [c["id"] for c in records["categories"]]
    for i in range(1000):
        x, y = float(rng.uniform(0, 130)), float(rng.uniform(0, 80))
        box = [x, y, float(rng.uniform(1, 14)), float(rng.uniform(1, 14))]
        more = {"id": 10**6 + i, "image_id": first["id"], "category_id": classes[i % 2]}
        records["annotations"].append(more | {"bbox": box, "area": box[2] * box[3], "iscrowd": 0})


def _thin_images(rng: Rng, records: Records, data: Path) -> None:
    for row, size in ((0, (1, 20_000)), (1, (20_000, 1)), (2, (1, 1))):
        record = records["images"][row]
        Image.new("RGB", size, "red").save(data / "images" / record["file_name"])
        record["width"], record["height"] = size
        for box in records["annotations"]:
            if box["image_id"] == record["id"]:
                box["bbox"] = [0, 0, *size]


def _invalid_coordinates(rng: Rng, records: Records, data: Path) -> None:
    invalid = [float("nan"), float("inf"), float("-inf"), None, "x", 1e300, -1e300, 10**400]
    for record in records["annotations"][::2]:
        record["bbox"][int(rng.integers(4))] = pick(rng, invalid)


def _one_class(rng: Rng, records: Records, data: Path) -> None:
    kept = records["categories"][0]
    records["categories"] = [kept]
    for record in records["annotations"]:
        record["category_id"] = kept["id"]
    val = json.loads((data / "val.json").read_text())
    val["categories"] = [kept]
    val["annotations"] = [a | {"category_id": kept["id"]} for a in val["annotations"]]
    (data / "val.json").write_text(json.dumps(val))


def _unknown_classes(rng: Rng, records: Records, data: Path, all_of_them: bool = False) -> None:
    val = json.loads((data / "val.json").read_text())
    for category in val["categories"] if all_of_them else val["categories"][:1]:
        category["name"], category["id"] = f"unknown_{category['id']}", category["id"] + 90
    known = [c["id"] for c in val["categories"]]
    val["annotations"] = [a | {"category_id": known[i % len(known)]} for i, a in enumerate(val["annotations"])]
    (data / "val.json").write_text(json.dumps(val))


def _mostly_background(rng: Rng, records: Records, data: Path) -> None:
    first = records["annotations"][0]["image_id"]
    records["annotations"] = [a for a in records["annotations"] if a["image_id"] == first]


def _gray_and_clear(rng: Rng, records: Records, data: Path) -> None:
    for record, mode in zip(records["images"], ("L", "P", "1", "CMYK", "LA", "RGBA"), strict=False):
        path = data / "images" / record["file_name"]
        with Image.open(path) as image:
            changed = image.convert("RGB").convert(mode)
        changed.save(path, "TIFF")


CASES: dict[str, Case] = {
    "deleted images": Case(while_running=_delete_images, codes=(2,), messages=("is missing",)),
    "deleted images, workers": Case(
        while_running=_delete_images, codes=(2,), messages=("is missing",), options=("--num_workers", "2")
    ),
    "deleted images, processes": Case(
        while_running=_delete_images, codes=(2,), messages=("is missing",), options=("--devices", "2")
    ),
    "corrupt images": Case(
        while_running=_corrupt_images, codes=(2,), messages=("cannot be decoded", "not in a supported image format")
    ),
    "replaced images": Case(while_running=_replace_images, codes=(2,), messages=("was replaced",)),
    "killed worker": Case(
        while_running=_kill_loader, codes=(2,), messages=("loads images",), options=("--num_workers", "2")
    ),
    "only crowds": Case(_only_crowds, codes=(2,), messages=("no boxes to train on",)),
    "thousand objects": Case(_thousand_objects),
    "thin images": Case(_thin_images),
    "invalid coordinates": Case(_invalid_coordinates),
    "one class": Case(_one_class),
    "unknown class": Case(_unknown_classes, codes=(0, 2), messages=("class", "categories")),
    "unknown classes": Case(partial(_unknown_classes, all_of_them=True), codes=(2,), messages=("class",)),
    "mostly background": Case(_mostly_background),
    "image modes": Case(_gray_and_clear),
}


if __name__ == "__main__":
    sys.exit(main())
