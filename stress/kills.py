"""Stress test of resuming: kill or stop tiny trainings, limit their disk, damage checkpoints, change the data; resume.

Expected: the resumed run ends with bit for bit the weights of an undisturbed run and the same rows in metrics.csv; what
cannot be resumed is reported in one or two lines. No process hangs, and no file is written partially.
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

from libradet.data.proposals.proposal_file import ImageProposals, write_proposals
from libradet.data.read import read
from libradet.models.zoo import MODELS
from libradet.training.resume import read_checkpoint
from stress.common import AttemptLog
from stress.launcher import Interruption, ProcessOutcome, launch
from stress.mutation import Rng, pick
from stress.tiny_settings import make_tiny_dataset, tiny_settings

VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "ema": ("--ema", "0.9"),
    "accumulate": ("--accumulate_grad_batches", "2", "--ema", "0.9"),
    "bf16": ("--precision", "bf16"),
    "workers": ("--num_workers", "1", "--check_val_every_n_epoch", "2"),
    "processes": ("--devices", "2", "--ema", "0.5"),
}
FAULTS = (
    "kill",
    "kill_anytime",
    "kill",
    "stop",
    "kill_rank",
    "damage",
    "disk_full",
    "data",
    "kill",
    "stop",
    "kill_twice",
)
IGNORED_COLUMNS = ("images_per_second",)


def main() -> int:
    """Run the stress test."""
    attempts = AttemptLog("kills", __doc__, short=11, long=110)
    data = make_tiny_dataset(attempts.folder / "data")
    if not (data / "proposals").exists():
        _write_random_proposals(data)
    for number in attempts.pending():
        rng = attempts.rng(number)
        kind = FAULTS[number % len(FAULTS)]
        # Covers every model of the zoo, and every kind of fault with every variant.
        cycle = number // len(FAULTS)
        model = list(MODELS)[(number * 5 + cycle) % len(MODELS)]
        variant = "processes" if kind == "kill_rank" else list(VARIANTS)[(number + cycle) % len(VARIANTS)]
        attempt = Attempt(attempts.folder, data, model, variant, rng)
        fault = attempt.run(kind)
        attempts.record(number, f"{kind} {attempt.detail}", fault, model=model, variant=variant, kills=attempt.kills)
    recovered = sum(entry.get("kills", 0) for entry in attempts.done.values() if not entry["fault"])
    return attempts.finish(kills_recovered=recovered)


class Attempt:
    """A tiny training run and its disturbance."""

    def __init__(self, folder: Path, data: Path, model: str, variant: str, rng: Rng) -> None:
        self.folder, self.data, self.model, self.variant, self.rng = folder, data, model, variant, rng
        self.processes = 2 if variant == "processes" else 1
        self.batches = 12 // self.processes
        self.output_dir = folder / "current" / "run"
        self.kills = 0
        self.detail = ""
        shutil.rmtree(folder / "current", ignore_errors=True)

    def run(self, kind: str) -> str | None:
        """Disturb the run and resume it; return what went wrong, if anything."""
        reference = self._reference_run()
        if isinstance(reference, str):
            return reference
        disturb: Callable[[], str | None] = getattr(self, f"_{kind}")
        fault = disturb()
        if fault or kind == "data":
            return fault
        outcome = self._resume()
        if outcome.codes != [0] * self.processes:
            return f"did not resume: {outcome.codes} {_tail(outcome)}"
        return _difference(self.output_dir, reference)

    def _start(self, plan: Interruption | None = None, delay: float | None = None) -> ProcessOutcome:
        return launch(self._args(self.output_dir), self.folder / "current", plan, self.processes, delay)

    def _resume(self, plan: Interruption | None = None) -> ProcessOutcome:
        if not (self.output_dir / "config.yaml").exists():  # nothing was written yet: it is started again
            shutil.rmtree(self.output_dir, ignore_errors=True)
            return self._start(plan)
        return launch(["train", "--resume", str(self.output_dir)], self.folder / "current", plan, self.processes)

    def _args(self, output_dir: Path) -> list[str]:
        settings = tiny_settings(self.model, self.folder)
        args = ["train", "--config", str(settings), "--model", self.model, "--data", str(self.data)]
        args += ["--output_dir", str(output_dir)]
        args += ["--save_every_n_steps", "1", "--logger", "csv", *VARIANTS[self.variant]]
        return args + (["--proposals", str(self.data / "proposals")] if self.model[-9:] == "fast_rcnn" else [])

    def _reference_run(self) -> Path | str:
        """Return the folder of the same run without disturbance, or its error; it runs once."""
        folder = self.folder / "reference" / f"{self.model}-{self.variant}"
        if (folder / "curves.png").exists():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        outcome = launch(self._args(folder), self.folder / "current", None, self.processes)
        if outcome.codes == [0] * self.processes:
            return folder
        return f"the undisturbed run fails: {outcome.codes} {_tail(outcome)}"

    def _plan(self, signum: int, rank: int = 0) -> Interruption:
        moment = pick(self.rng, ["step", "write", "validation", "swap", "start"])
        most = {"step": self.batches, "write": self.batches, "validation": 4, "swap": 20, "start": 1}[moment]
        # torch's processes wait half an hour for each other before their first connection.
        if (signum != signal.SIGKILL and moment in ("start", "swap")) or (moment == "start" and self.processes > 1):
            moment, most = "step", self.batches
        self.detail = f"in {moment}"
        share = float(self.rng.random())
        return Interruption(moment, int(self.rng.integers(1, most + 1)), signum, share, rank)

    def _kill(self) -> str | None:
        outcome = self._start(self._plan(signal.SIGKILL))
        return self._after_kill(outcome)

    def _kill_anytime(self) -> str | None:
        self.detail = ""
        return self._after_kill(self._start(delay=float(self.rng.uniform(0.05, 6))))

    def _after_kill(self, outcome: ProcessOutcome) -> str | None:
        self.kills += outcome.codes[0] == -signal.SIGKILL
        others = outcome.codes[1:]
        if None in outcome.codes or "Traceback" in outcome.output:
            return f"other processes fail after a kill: {outcome.codes} {_tail(outcome)}"
        if 0 in others and outcome.codes[0]:
            return f"the other process ended with code 0: {outcome.codes}"
        return None

    def _kill_twice(self) -> str | None:
        fault = self._kill()
        for _ in range(2):
            if fault is None:
                fault = self._after_kill(self._resume(self._plan(signal.SIGKILL)))
        return fault

    def _stop(self) -> str | None:
        signum = int(pick(self.rng, [signal.SIGTERM, signal.SIGINT]))
        outcome = self._start(plan := self._plan(signum))
        self.kills += 1
        expected = [128 + signum] + [0] * (self.processes - 1)
        if "Traceback" in outcome.output or outcome.codes not in (expected, [0] * self.processes):
            return f"{plan}: {outcome.codes} instead of {expected}, {_tail(outcome)}"
        if outcome.codes == expected and f"--resume {self.output_dir}" not in outcome.output:
            return f"{plan}: the output does not say how to resume: {_tail(outcome)}"
        return None

    def _kill_rank(self) -> str | None:
        plan = self._plan(signal.SIGKILL, int(self.rng.integers(2)))
        self.detail += f" of process {plan.rank}"
        outcome = self._start(plan)
        self.kills += -signal.SIGKILL in outcome.codes
        if None in outcome.codes or "Traceback" in outcome.output:
            return f"{plan}: {outcome.codes} {_tail(outcome)}"
        if -signal.SIGKILL in outcome.codes and 0 in outcome.codes:
            return f"{plan}: the other process ended with code 0: {outcome.codes}"
        return None

    def _damage(self) -> str | None:
        # Two processes save one step later than requested, so it takes three steps until both checkpoints exist.
        self._start(Interruption("step", int(self.rng.integers(self.batches // 2 + 1, self.batches)), signal.SIGKILL))
        self.kills += 1
        path = self.output_dir / "last.ckpt"
        content = bytearray(path.read_bytes())
        if cut := bool(self.rng.integers(2)):
            content = content[: int(self.rng.integers(len(content)))]
        else:
            content[int(self.rng.integers(len(content)))] ^= 1 << int(self.rng.integers(8))
        path.write_bytes(content)
        self.detail = "truncated" if cut else "one bit flipped"
        outcome = self._resume(Interruption("step", 1, signal.SIGKILL))
        # A bit between the members of the file, or in an unread part, has no effect.
        if cut and "previous.ckpt: last.ckpt is damaged" not in " ".join(outcome.output.split()):
            return f"the output does not say that last.ckpt is damaged: {_tail(outcome)}"
        return None

    def _disk_full(self) -> str | None:
        size = float(self.rng.uniform(1, (self._largest_file_kib() or 2000) * 1.1))
        self.detail = ""
        outcome = self._start(Interruption("limit", 0, 0, size, 0))
        ended = outcome.codes[0] in (0, 2) and "Traceback" not in outcome.output and None not in outcome.codes
        reported = outcome.codes[0] == 0 or "cannot be written" in outcome.output
        return None if ended and reported else f"files of at most {size:.1f} KiB: {outcome.codes} {_tail(outcome)}"

    def _largest_file_kib(self) -> float:
        folder = self.folder / "reference" / f"{self.model}-{self.variant}"
        return max(path.stat().st_size for path in folder.iterdir()) / 1024

    def _data(self) -> str | None:
        self._start(Interruption("step", int(self.rng.integers(self.batches // 2, self.batches)), signal.SIGKILL))
        self.kills += 1
        names, change = _change_data(self.rng, self.data, self.folder / "current" / "data")
        self.detail = change
        args = ["train", "--resume", str(self.output_dir), "--data", str(self.folder / "current" / "data")]
        outcome = launch(args, self.folder / "current", None, self.processes)
        output = " ".join(outcome.output.split())
        if set(outcome.codes) != {2} or "Traceback" in output or not any(name in output for name in names):
            return f"resumed with {change}, or the output has none of {names}: {outcome.codes} {_tail(outcome)}"
        return None


def _change_data(rng: Rng, data: Path, other: Path) -> tuple[list[str], str]:
    """Write a changed copy of the data; return names of which the output must contain one, and the change."""
    other.mkdir(parents=True)
    (other / "images").symlink_to(data / "images")
    (other / "proposals").symlink_to(data / "proposals")
    split = pick(rng, ["train", "train", "val"])
    for name in ("train", "val"):
        shutil.copy(data / f"{name}.json", other / f"{name}.json")
    content: dict[str, Any] = json.loads((other / f"{split}.json").read_text())
    row = pick(rng, content["annotations"])
    name = next(i["file_name"] for i in content["images"] if i["id"] == row["image_id"])
    change = pick(rng, ["box", "class", "removed", "image", "order"])
    if change == "box":
        row["bbox"][2] *= 0.9
    elif change == "class":
        row["category_id"] = next(c["id"] for c in content["categories"] if c["id"] != row["category_id"])
    elif change == "removed":
        content["annotations"].remove(row)
    elif change == "image":
        content["images"] = [i for i in content["images"] if i["id"] != row["image_id"]]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != row["image_id"]]
    else:
        content["images"] = content["images"][::-1]
    (other / f"{split}.json").write_text(json.dumps(content))
    named = {"image": ["images"], "order": ["order"]}.get(change, [Path(name).name])
    return named, f"{change} in {split}"


def _difference(folder: Path, reference: Path) -> str | None:
    """Return how a run differs from the undisturbed one; None if it does not."""
    state, expected = _state(folder), _state(reference)
    if state.keys() != expected.keys():
        return f"other tensors: {sorted(state.keys() ^ expected.keys())[:3]}"
    different = [name for name, t in state.items() if not torch.equal(t, expected[name])]
    if different:
        return f"{len(different)} of {len(state)} tensors differ, such as {different[0]}"
    return _metrics_difference(folder, reference)


def _state(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors that training changes."""
    content = read_checkpoint(folder / "last.ckpt")
    state = {f"last {n}": t for n, t in content["state_dict"].items()}
    state |= {f"own {n}": t for n, t in content.get("current_model_state", {}).items()}
    moments = content["optimizer_states"][0]["state"].items()
    state |= {f"momentum {n}": moment["momentum_buffer"] for n, moment in moments}
    return state | {f"best {n}": t for n, t in load_file(folder / "best.safetensors").items()}


def _metrics_difference(folder: Path, reference: Path) -> str | None:
    ours, theirs = ((f / "metrics.csv").read_text().splitlines() for f in (folder, reference))
    ignored = [ours[0].split(",").index(name) for name in IGNORED_COLUMNS]
    for a, b in zip(ours, theirs, strict=False):
        one, other = ([v for i, v in enumerate(row.split(",")) if i not in ignored] for row in (a, b))
        if one != other:
            return f"metrics.csv has {a} instead of {b}"
    return None if len(ours) == len(theirs) else f"metrics.csv has {len(ours)} rows instead of {len(theirs)}"


def _write_random_proposals(data: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        dataset, _ = read(data, split)
        images = []
        for p in dataset.images:
            low = rng.uniform(0, 60, (50, 2))
            boxes = np.concatenate([low, low + rng.uniform(5, 36, (50, 2))], 1).astype(np.float32)
            boxes[: len(p.boxes)] = p.boxes
            scores = np.linspace(1, 0.1, 50, dtype=np.float32)
            images.append(ImageProposals(p.id, p.path.name, p.width, p.height, boxes, scores))
        write_proposals(data / "proposals" / f"{split}.safetensors", images, "rpn")


def _tail(outcome: ProcessOutcome) -> str:
    return " / ".join(outcome.output.strip().splitlines()[-6:])[-700:]


if __name__ == "__main__":
    sys.exit(main())
