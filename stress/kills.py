"""Kill tiny trainings, stop them, fill their disk, damage their checkpoints, change their data: and let them go on.

Right is: the run that goes on ends with the weights of one that nothing happened to, bit for bit, and the same rows in
metrics.csv; what cannot go on says so in a line or two. Nothing hangs, nothing is written half.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from safetensors.torch import load_file

from libradet.data.proposals.proposal_file import Proposed, write_proposals
from libradet.data.read import read
from libradet.data.synthesis.synthetic import synthesize
from libradet.models.zoo import MODELS
from libradet.training.checkpoints import read_checkpoint
from stress.common import Book
from stress.launch import Ended, Plan, launch
from stress.mutate import Chance, pick
from stress.tiny import tiny_settings

VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "ema": ("--ema", "0.9"),
    "accumulate": ("--accumulate", "2", "--ema", "0.9"),
    "bf16": ("--precision", "bf16"),
    "workers": ("--workers", "1", "--eval_every", "2"),
    "processes": ("--devices", "2", "--ema", "0.5"),
}
HOW = ("kill", "anywhere", "kill", "stop", "peer", "damage", "full", "data", "kill", "stop", "twice")
LOST = ("images_per_second",)


def main() -> int:
    """The campaign."""
    book = Book("kills", __doc__, short=11, long=110)
    data = book.folder / "data"
    if not (data / "val.json").exists():
        shutil.rmtree(data, ignore_errors=True)
        synthesize(data, train=12, val=4, size=(144, 96), classes=2)
        _propose(data)
    for number in book.todo():
        chance = book.chance(number)
        how = HOW[number % len(HOW)]
        # Every zoo entry comes by, and every way with every variant.
        model = list(MODELS)[(number * 5 + number // len(HOW)) % len(MODELS)]
        variant = "processes" if how == "peer" else list(VARIANTS)[(number + number // len(HOW)) % len(VARIANTS)]
        attempt = Attempt(book.folder, data, model, variant, chance)
        fault = attempt.run(how)
        book.note(number, f"{how} {attempt.shown}", fault, model=model, variant=variant, kills=attempt.kills)
    survived = sum(entry.get("kills", 0) for entry in book.done.values() if not entry["fault"])
    return book.close(kills_survived=survived)


class Attempt:
    """One tiny run of one kind, and what happens to it."""

    def __init__(self, home: Path, data: Path, model: str, variant: str, chance: Chance) -> None:
        self.home, self.data, self.model, self.variant, self.chance = home, data, model, variant, chance
        self.processes = 2 if variant == "processes" else 1
        self.batches = 12 // self.processes
        self.out = home / "now" / "run"
        self.kills = 0
        self.shown = ""
        shutil.rmtree(home / "now", ignore_errors=True)

    def run(self, how: str) -> str | None:
        """What went wrong, if anything."""
        whole = self._untouched()
        if isinstance(whole, str):
            return whole
        act: Callable[[], str | None] = getattr(self, f"_{how}")
        fault = act()
        if fault or how == "data":
            return fault
        ended = self._go_on()
        if ended.codes != [0] * self.processes:
            return f"did not go on: {ended.codes} {_tail(ended)}"
        return _differs(self.out, whole)

    def _start(self, plan: Plan | None = None, delay: float | None = None) -> Ended:
        return launch(self._args(self.out), self.home / "now", plan, self.processes, delay)

    def _go_on(self, plan: Plan | None = None) -> Ended:
        if not (self.out / "config.yaml").exists():  # nothing was written yet: it is started as it was
            shutil.rmtree(self.out, ignore_errors=True)
            return self._start(plan)
        return launch(["train", "--resume", str(self.out)], self.home / "now", plan, self.processes)

    def _args(self, out: Path) -> list[str]:
        settings = tiny_settings(self.model, self.home)
        args = ["train", "--config", str(settings), "--model", self.model, "--data", str(self.data), "--out", str(out)]
        args += ["--save_steps", "1", "--logger", "csv", *VARIANTS[self.variant]]
        return args + (["--proposals", str(self.data / "proposals")] if self.model[-9:] == "fast_rcnn" else [])

    def _untouched(self) -> Path | str:
        """The folder of the same run, left alone, made once."""
        folder = self.home / "whole" / f"{self.model}-{self.variant}"
        if (folder / "curves.png").exists():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        ended = launch(self._args(folder), self.home / "now", None, self.processes)
        return folder if ended.codes == [0] * self.processes else f"even alone it fails: {ended.codes} {_tail(ended)}"

    def _plan(self, signum: int, rank: int = 0) -> Plan:
        moment = pick(self.chance, ["step", "write", "validation", "swap", "start"])
        most = {"step": self.batches, "write": self.batches, "validation": 4, "swap": 20, "start": 1}[moment]
        # Processes that never met wait half an hour for each other, as torch has it.
        if (signum != signal.SIGKILL and moment in ("start", "swap")) or (moment == "start" and self.processes > 1):
            moment, most = "step", self.batches
        self.shown = f"in {moment}"
        share = float(self.chance.random())
        return Plan(moment, int(self.chance.integers(1, most + 1)), signum, share, rank)

    def _kill(self) -> str | None:
        ended = self._start(self._plan(signal.SIGKILL))
        return self._after_kill(ended)

    def _anywhere(self) -> str | None:
        self.shown = "at any moment"
        return self._after_kill(self._start(delay=float(self.chance.uniform(0.05, 6))))

    def _after_kill(self, ended: Ended) -> str | None:
        self.kills += ended.codes[0] == -signal.SIGKILL
        others = ended.codes[1:]
        if None in ended.codes or "Traceback" in ended.said:
            return f"a killed process takes others with it: {ended.codes} {_tail(ended)}"
        return f"the other process ended as if all were well: {ended.codes}" if 0 in others and ended.codes[0] else None

    def _twice(self) -> str | None:
        fault = self._kill()
        for _ in range(2):
            if fault is None:
                fault = self._after_kill(self._go_on(self._plan(signal.SIGKILL)))
        return fault

    def _stop(self) -> str | None:
        signum = int(pick(self.chance, [signal.SIGTERM, signal.SIGINT]))
        ended = self._start(plan := self._plan(signum))
        self.kills += 1
        expected = [128 + signum] + [0] * (self.processes - 1)
        if "Traceback" in ended.said or ended.codes not in (expected, [0] * self.processes):
            return f"{plan}: {ended.codes} instead of {expected}, {_tail(ended)}"
        if ended.codes == expected and f"--resume {self.out}" not in ended.said:
            return f"{plan}: does not say how to go on: {_tail(ended)}"
        return None

    def _peer(self) -> str | None:
        plan = self._plan(signal.SIGKILL, int(self.chance.integers(2)))
        self.shown += f" of process {plan.rank}"
        ended = self._start(plan)
        self.kills += -signal.SIGKILL in ended.codes
        if None in ended.codes or "Traceback" in ended.said:
            return f"{plan}: {ended.codes} {_tail(ended)}"
        if -signal.SIGKILL in ended.codes and 0 in ended.codes:
            return f"{plan}: the other ended as if all were well: {ended.codes}"
        return None

    def _damage(self) -> str | None:
        # Two processes save one step after they wished to, so that it takes three steps until there are two files.
        self._start(Plan("step", int(self.chance.integers(self.batches // 2 + 1, self.batches)), signal.SIGKILL))
        self.kills += 1
        path = self.out / "last.ckpt"
        content = bytearray(path.read_bytes())
        if cut := bool(self.chance.integers(2)):
            content = content[: int(self.chance.integers(len(content)))]
        else:
            content[int(self.chance.integers(len(content)))] ^= 1 << int(self.chance.integers(8))
        path.write_bytes(content)
        self.shown = "cut off" if cut else "a bit"
        ended = self._go_on(Plan("step", 1, signal.SIGKILL))
        # A bit between the members of the file, or in what nobody reads of it, changes nothing.
        if cut and "previous.ckpt: last.ckpt is damaged" not in " ".join(ended.said.split()):
            return f"does not say that last.ckpt is damaged: {_tail(ended)}"
        return None

    def _full(self) -> str | None:
        size = float(self.chance.uniform(1, (self._biggest() or 2000) * 1.1))
        self.shown = "disk"
        ended = self._start(Plan("limit", 0, 0, size, 0))
        good = ended.codes[0] in (0, 2) and "Traceback" not in ended.said and None not in ended.codes
        said = ended.codes[0] == 0 or "cannot be written" in ended.said
        return None if good and said else f"files of at most {size:.1f} KiB: {ended.codes} {_tail(ended)}"

    def _biggest(self) -> float:
        folder = self.home / "whole" / f"{self.model}-{self.variant}"
        return max(path.stat().st_size for path in folder.iterdir()) / 1024

    def _data(self) -> str | None:
        self._start(Plan("step", int(self.chance.integers(self.batches // 2, self.batches)), signal.SIGKILL))
        self.kills += 1
        names, what = _change(self.chance, self.data, self.home / "now" / "data")
        self.shown = what
        args = ["train", "--resume", str(self.out), "--data", str(self.home / "now" / "data")]
        ended = launch(args, self.home / "now", None, self.processes)
        said = " ".join(ended.said.split())
        if set(ended.codes) != {2} or "Traceback" in said or not any(name in said for name in names):
            return f"goes on with other data ({what}), or does not say {names}: {ended.codes} {_tail(ended)}"
        return None


def _change(chance: Chance, data: Path, other: Path) -> tuple[list[str], str]:
    """A copy of the data with something changed: what has to be said of it, and what it is."""
    other.mkdir(parents=True)
    (other / "images").symlink_to(data / "images")
    (other / "proposals").symlink_to(data / "proposals")
    split = pick(chance, ["train", "train", "val"])
    for name in ("train", "val"):
        shutil.copy(data / f"{name}.json", other / f"{name}.json")
    content: dict[str, Any] = json.loads((other / f"{split}.json").read_text())
    row = pick(chance, content["annotations"])
    name = next(i["file_name"] for i in content["images"] if i["id"] == row["image_id"])
    what = pick(chance, ["box", "class", "removed", "image", "order"])
    if what == "box":
        row["bbox"][2] *= 0.9
    elif what == "class":
        row["category_id"] = next(c["id"] for c in content["categories"] if c["id"] != row["category_id"])
    elif what == "removed":
        content["annotations"].remove(row)
    elif what == "image":
        content["images"] = [i for i in content["images"] if i["id"] != row["image_id"]]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != row["image_id"]]
    else:
        content["images"] = content["images"][::-1]
    (other / f"{split}.json").write_text(json.dumps(content))
    named = {"image": ["images"], "order": ["order"]}.get(what, [Path(name).name])
    return named, f"{what} in {split}"


def _differs(folder: Path, whole: Path) -> str | None:
    """How a run differs from the one that was left alone."""
    one, other = _state(folder), _state(whole)
    if one.keys() != other.keys():
        return f"other tensors: {sorted(one.keys() ^ other.keys())[:3]}"
    wrong = [name for name, t in one.items() if not torch.equal(t, other[name])]
    if wrong:
        return f"{len(wrong)} of {len(one)} tensors differ, such as {wrong[0]}"
    return _other_rows(folder, whole)


def _state(folder: Path) -> dict[str, torch.Tensor]:
    """All that training changes."""
    content = read_checkpoint(folder / "last.ckpt")
    found = {f"last {n}": t for n, t in content["state_dict"].items()}
    found |= {f"own {n}": t for n, t in content.get("current_model_state", {}).items()}
    moments = content["optimizer_states"][0]["state"].items()
    found |= {f"momentum {n}": state["momentum_buffer"] for n, state in moments}
    return found | {f"best {n}": t for n, t in load_file(folder / "best.safetensors").items()}


def _other_rows(folder: Path, whole: Path) -> str | None:
    ours, theirs = ((f / "metrics.csv").read_text().splitlines() for f in (folder, whole))
    lost = [ours[0].split(",").index(name) for name in LOST]
    for a, b in zip(ours, theirs, strict=False):
        one, other = ([v for i, v in enumerate(row.split(",")) if i not in lost] for row in (a, b))
        if one != other:
            return f"metrics.csv has {a} instead of {b}"
    return None if len(ours) == len(theirs) else f"metrics.csv has {len(ours)} rows instead of {len(theirs)}"


def _propose(data: Path) -> None:
    chance = np.random.default_rng(0)
    for split in ("train", "val"):
        dataset, _ = read(data, split)
        found = []
        for p in dataset.images:
            low = chance.uniform(0, 60, (50, 2))
            boxes = np.concatenate([low, low + chance.uniform(5, 36, (50, 2))], 1).astype(np.float32)
            boxes[: len(p.boxes)] = p.boxes
            scores = np.linspace(1, 0.1, 50, dtype=np.float32)
            found.append(Proposed(p.id, p.path.name, p.width, p.height, boxes, scores))
        write_proposals(data / "proposals" / f"{split}.safetensors", found, "rpn")


def _tail(ended: Ended) -> str:
    return " / ".join(ended.said.strip().splitlines()[-6:])[-700:]


if __name__ == "__main__":
    sys.exit(main())
