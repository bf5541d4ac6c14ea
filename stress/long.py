"""Train for thousands of steps and watch memory, open files and threads of the process and of those that load images.

Right is: memory grows by no more than 1 MiB in 1,000 steps, open files and threads are as many at the end as they were.
"""

import csv
import os
import shutil
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from libradet.data.synthesis.synthetic import synthesize
from stress.common import Book, status
from stress.launch import Running, launch
from stress.tiny import tiny_settings

STEPS = {False: 1500, True: 5000}
SLOPE = 1.0
"""MiB in 1,000 steps."""
SETTLED = 0.3
"""Share of a run after which allocators have what they need."""


def main() -> int:
    """The campaign: one run, of another detector for each attempt."""
    book = Book("long", __doc__, short=1, long=2)
    steps = STEPS[book.args.long]
    data = book.folder / "data"
    if not (data / "val.json").exists():
        shutil.rmtree(data, ignore_errors=True)
        synthesize(data, train=24, val=4, size=(144, 96), classes=2)
    # A short run is no part of the long form.
    book.done = {number: entry for number, entry in book.done.items() if entry.get("steps") == steps}
    for number in book.todo():
        model = ("libra_faster_rcnn", "mask_rcnn")[number % 2]
        watch = Watch(book.folder / "now" / "run")
        shutil.rmtree(book.folder / "now", ignore_errors=True)
        settings = tiny_settings(model, book.folder)
        args = ["train", "--config", str(settings), "--model", model, "--data", str(data), "--out", str(watch.out)]
        args += ["--max_steps", str(steps), "--epochs", str(steps), "--workers", "1", "--eval_every", "5"]
        args += ["--samples", "1", "--save_steps", "50", "--ema", "0.99", "--lr", "0.001"]
        ended = launch(args, book.folder / "now", meanwhile=watch, patience=60)
        fault = watch.fault() if ended.codes == [0] else f"{ended.codes} {ended.said[-400:]}"
        book.note(number, model, fault, steps=steps, **watch.figures())
    slopes = {entry["kind"]: entry.get("slopes") for entry in book.done.values()}
    return book.close(steps=steps, slopes_in_MiB_per_1000_steps=slopes)


class Watch:
    """Called with what runs, measures until it has ended."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.rows: list[tuple[int, float, float, int, int, int]] = []

    def __call__(self, running: Running) -> None:
        """Steps, MiB of the process and of all its children, open files, threads, children: twice a second."""
        pid = running.processes[0].pid
        while running.alive:
            try:
                children = running.children()
                files = len(os.listdir(f"/proc/{pid}/fd"))
            except OSError:
                return
            memory = [_own(p) for p in (pid, *children)]
            if (step := self._step()) and all(memory):
                self.rows.append((step, memory[0], sum(memory[1:]), files, status(pid, "Threads"), len(children)))
            time.sleep(0.5)

    def figures(self) -> dict:
        """What was measured, in short."""
        if len(self.rows) < 10:
            return {}
        rows = self._settled()
        slopes = {name: round(_slope(rows[:, 0], rows[:, i]), 2) for name, i in (("process", 1), ("loaders", 2))}
        most = {name: [int(rows[:, i].min()), int(rows[:, i].max())] for name, i in (("files", 3), ("threads", 4))}
        return {"slopes": slopes, "MiB": rows[-1, 1:3].round(1).tolist(), **most}

    def fault(self) -> str | None:
        """What grows."""
        found = self.figures()
        if not found:
            return f"only {len(self.rows)} measurements"
        growing = [f"memory of the {name} by {s} MiB" for name, s in found["slopes"].items() if s > SLOPE]
        rows = self._settled()
        third = len(rows) // 3
        for name, i in (("open files", 3), ("threads", 4)):
            early, late = np.median(rows[:third, i]), np.median(rows[-third:, i])
            growing += [f"{name} from {early:.0f} to {late:.0f}"] * bool(late > early)
        return f"in 1,000 steps there grow {', '.join(growing)}" if growing else None

    def _settled(self) -> np.ndarray:
        rows = np.array(self.rows, float)
        return rows[rows[:, 0] >= SETTLED * rows[-1, 0]]

    def _step(self) -> int:
        try:
            with (self.out / "metrics.csv").open(newline="") as file:
                return max((int(row["step"]) for row in csv.DictReader(file) if row["step"]), default=0)
        except (OSError, ValueError, TypeError):
            return 0


def _own(pid: int) -> float:
    """MiB that are the process's own: files that are mapped come and go with what others do."""
    return status(pid, "RssAnon") / 1024


def _slope(steps: np.ndarray, memory: np.ndarray) -> float:
    """MiB in 1,000 steps, of the median slope of all pairs, which peaks do not bend (Theil and Sen)."""
    rows = np.linspace(0, len(steps) - 1, min(len(steps), 400)).astype(int)
    x, y = steps[rows], memory[rows]
    i, j = np.triu_indices(len(x), 1)
    apart = x[j] > x[i]
    return 1000 * float(np.median((y[j] - y[i])[apart] / (x[j] - x[i])[apart])) if apart.any() else 0.0


if __name__ == "__main__":
    sys.exit(main())
