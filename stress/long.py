"""Leak test: memory, open files and threads of a training process and its workers over thousands of steps.

Expected: memory grows by at most 1 MiB per 1,000 steps; the numbers of open files and threads do not grow.
"""

import csv
import os
import shutil
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from stress.common import AttemptLog, status
from stress.launcher import Running, launch
from stress.tiny_settings import make_tiny_dataset, tiny_settings

STEPS = {False: 1500, True: 5000}
MAX_SLOPE = 1.0
"""MiB per 1,000 steps."""
WARM_UP = 0.3
"""Share of a run that is ignored, while allocators grow."""


def main() -> int:
    """Run the leak test: one run per attempt, with alternating detectors."""
    attempts = AttemptLog("long", __doc__, short=1, long=2)
    steps = STEPS[attempts.args.long]
    data = make_tiny_dataset(attempts.folder / "data", train=24)
    # Short and long runs are recorded separately.
    attempts.done = {number: entry for number, entry in attempts.done.items() if entry.get("steps") == steps}
    for number in attempts.pending():
        model = ("libra_faster_rcnn", "mask_rcnn")[number % 2]
        monitor = ResourceMonitor(attempts.folder / "current" / "run")
        shutil.rmtree(attempts.folder / "current", ignore_errors=True)
        settings = tiny_settings(model, attempts.folder)
        args = ["train", "--config", str(settings), "--model", model, "--data", str(data)]
        args += ["--output_dir", str(monitor.output_dir), "--max_steps", str(steps), "--max_epochs", str(steps)]
        args += ["--num_workers", "1", "--check_val_every_n_epoch", "5"]
        args += ["--num_val_images_logged", "1", "--save_every_n_steps", "50", "--ema", "0.99", "--lr", "0.001"]
        outcome = launch(args, attempts.folder / "current", while_running=monitor, timeout=60)
        fault = monitor.fault() if outcome.codes == [0] else f"{outcome.codes} {outcome.output[-400:]}"
        attempts.record(number, model, fault, steps=steps, **monitor.summary())
    slopes = {entry["kind"]: entry.get("slopes") for entry in attempts.done.values()}
    return attempts.finish(steps=steps, slopes_in_MiB_per_1000_steps=slopes)


class ResourceMonitor:
    """Measures running processes until they end.

    Args:
        output_dir: of the run.
    """

    def __init__(self, output_dir: Path) -> None:
        self.output_dir = output_dir
        self.rows: list[tuple[int, float, float, int, int, int]] = []

    def __call__(self, running: Running) -> None:
        """Record step, MiB of the process and of its children, open files, threads and children twice a second."""
        pid = running.processes[0].pid
        while running.alive:
            try:
                children = running.children()
                files = len(os.listdir(f"/proc/{pid}/fd"))
            except OSError:
                return
            memory = [_private_mib(p) for p in (pid, *children)]
            if (step := self._step()) and all(memory):
                self.rows.append((step, memory[0], sum(memory[1:]), files, status(pid, "Threads"), len(children)))
            time.sleep(0.5)

    def summary(self) -> dict:
        """Return slopes, final memory, and ranges of open files and threads."""
        if len(self.rows) < 10:
            return {}
        rows = self._rows_after_warm_up()
        slopes = {name: round(_slope(rows[:, 0], rows[:, i]), 2) for name, i in (("process", 1), ("loaders", 2))}
        ranges = {name: [int(rows[:, i].min()), int(rows[:, i].max())] for name, i in (("files", 3), ("threads", 4))}
        return {"slopes": slopes, "MiB": rows[-1, 1:3].round(1).tolist(), **ranges}

    def fault(self) -> str | None:
        """Return what grows; None if nothing does."""
        summary = self.summary()
        if not summary:
            return f"only {len(self.rows)} measurements"
        growing = [f"memory of the {name} by {s} MiB" for name, s in summary["slopes"].items() if s > MAX_SLOPE]
        rows = self._rows_after_warm_up()
        third = len(rows) // 3
        for name, i in (("open files", 3), ("threads", 4)):
            early, late = np.median(rows[:third, i]), np.median(rows[-third:, i])
            if late > early:
                growing.append(f"{name} from {early:.0f} to {late:.0f}")
        return f"growth per 1,000 steps: {', '.join(growing)}" if growing else None

    def _rows_after_warm_up(self) -> np.ndarray:
        rows = np.array(self.rows, float)
        return rows[rows[:, 0] >= WARM_UP * rows[-1, 0]]

    def _step(self) -> int:
        try:
            with (self.output_dir / "metrics.csv").open(newline="") as file:
                return max((int(row["step"]) for row in csv.DictReader(file) if row["step"]), default=0)
        except (OSError, ValueError, TypeError):
            return 0


def _private_mib(pid: int) -> float:
    """Return the process's anonymous memory in MiB; that of mapped files depends on other processes."""
    return status(pid, "RssAnon") / 1024


def _slope(steps: np.ndarray, memory: np.ndarray) -> float:
    """Return MiB per 1,000 steps: the median slope of all pairs (Theil-Sen), which is robust to peaks."""
    rows = np.linspace(0, len(steps) - 1, min(len(steps), 400)).astype(int)
    x, y = steps[rows], memory[rows]
    i, j = np.triu_indices(len(x), 1)
    apart = x[j] > x[i]
    return 1000 * float(np.median((y[j] - y[i])[apart] / (x[j] - x[i])[apart])) if apart.any() else 0.0


if __name__ == "__main__":
    sys.exit(main())
