"""Attempts of a stress test: numbered, seeded, recorded and not repeated, with a one-line summary at the end."""

import argparse
import json
import os
import platform
import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
TINY_CONFIG = ROOT / "tests" / "training" / "tiny.yaml"


class AttemptLog:
    """Command line and recorded attempts of a stress test; recorded attempts are not repeated.

    Args:
        name: of the stress test and of its folder.
        description: for ``--help``.
        short, long: number of attempts by default and with ``--long``.
    """

    def __init__(self, name: str, description: str, short: int, long: int) -> None:
        parser = argparse.ArgumentParser(f"python -m stress.{name}", description=description)
        parser.add_argument("--long", action="store_true", help=f"{long} attempts instead of {short}")
        parser.add_argument("--count", type=int, help="number of attempts")
        parser.add_argument("--seed", type=int, default=0, help="each seed has its own attempts (default: 0)")
        parser.add_argument(
            "--output_dir", type=Path, default=Path("runs/stress"), help="folder of results (default: runs/stress)"
        )
        parser.add_argument(
            "--only", type=int, nargs="+", metavar="N", help="run only these attempts, even if recorded"
        )
        parser.add_argument("--again", action="store_true", help="discard recorded attempts")
        self.args = parser.parse_args()
        self.name = name
        self.count = self.args.count or (long if self.args.long else short)
        self.folder = (self.args.output_dir / name).resolve()
        if self.args.again:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path = self.folder / f"attempts-{self.args.seed}.jsonl"
        self.done = self._read()
        self._start = time.monotonic()

    def pending(self) -> Iterator[int]:
        """Yield the numbers of attempts that are not recorded yet, or those of ``--only``."""
        numbers = self.args.only or range(self.count)
        yield from (n for n in numbers if self.args.only or n not in self.done)

    def rng(self, number: int) -> np.random.Generator:
        """Return the random generator of an attempt, a function of seed and number."""
        return np.random.default_rng([self.args.seed, number])

    def record(self, number: int, kind: str, fault: str | None, **more: Any) -> None:
        """Record the outcome of an attempt; ``fault`` describes what was wrong, None if nothing."""
        entry = {"number": number, "kind": kind, "fault": fault, **more}
        self.done[number] = entry
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, default=str) + "\n")
        if fault:
            print(f"{self.name} {number}, {kind}: {fault}", file=sys.stderr, flush=True)

    def finish(self, **figures: Any) -> int:
        """Write NAME.json and print a one-line summary; return 1 if there were faults."""
        entries = [self.done[n] for n in sorted(self.done) if n < self.count]
        faults = [entry for entry in entries if entry["fault"]]
        kinds = Counter(entry["kind"] for entry in entries)
        report = {
            "name": self.name,
            "date": str(date.today()),
            "command": shlex.join(["python", "-m", f"stress.{self.name}", *sys.argv[1:]]),
            "machine": machine(),
            "seed": self.args.seed,
            "attempts": len(entries),
            "seconds": round(time.monotonic() - self._start, 1),
            "kinds": dict(sorted(kinds.items())),
            **figures,
            "faults": faults,
        }
        path = self.folder.parent / f"{self.name}.json"
        path.write_text(json.dumps(report, indent=1, default=str) + "\n", encoding="utf-8")
        shown = "".join(f", {key.replace('_', ' ')} {value}" for key, value in figures.items())
        print(f"{self.name}: {len(entries)} attempts, {len(faults)} faults{shown} ({path})")
        return 1 if faults else 0

    def _read(self) -> dict[int, dict[str, Any]]:
        if not self._path.exists():
            return {}
        entries = {}
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # truncated when the process was killed
                continue
            entries[entry["number"]] = entry
        return entries


def machine() -> str:
    """Return the processor's name and number of cores."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} cores"


def status(pid: int, key: str) -> int:
    """Return a number of /proc/PID/status, such as VmRSS in KiB; 0 if there is none."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return next((int(line.split()[1]) for line in file if line.startswith(f"{key}:")), 0)
    except OSError:
        return 0
