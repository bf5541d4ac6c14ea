"""What campaigns share: attempts that are numbered, seeded, kept and not repeated, and one line at the end."""

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
TINY = ROOT / "tests" / "training" / "tiny.yaml"


class Book:
    """The attempts of a campaign: what was done is read back, and not done again.

    Args:
        name: of the campaign, and of its folder.
        about: what it does.
        short, long: how many attempts there are.
    """

    def __init__(self, name: str, about: str, short: int, long: int) -> None:
        parser = argparse.ArgumentParser(f"python -m stress.{name}", description=about)
        parser.add_argument("--long", action="store_true", help=f"{long} attempts, not {short}")
        parser.add_argument("--count", type=int, help="so many attempts")
        parser.add_argument("--seed", type=int, default=0, help="of the campaign; others are other attempts")
        parser.add_argument("--out", type=Path, default=Path("runs/stress"), help="where results are kept")
        parser.add_argument("--only", type=int, nargs="+", metavar="N", help="these attempts, whatever was done before")
        parser.add_argument("--again", action="store_true", help="forget what was done")
        self.args = parser.parse_args()
        self.name = name
        self.count = self.args.count or (long if self.args.long else short)
        self.folder = (self.args.out / name).resolve()
        if self.args.again:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path = self.folder / f"attempts-{self.args.seed}.jsonl"
        self.done = self._read()
        self.began = time.monotonic()

    def todo(self) -> Iterator[int]:
        """Numbers of the attempts that are left."""
        numbers = self.args.only or range(self.count)
        yield from (n for n in numbers if self.args.only or n not in self.done)

    def chance(self, number: int) -> np.random.Generator:
        """What is random in an attempt: a function of seed and number."""
        return np.random.default_rng([self.args.seed, number])

    def note(self, number: int, kind: str, fault: str | None, **more: Any) -> None:
        """Keep how an attempt ended; ``fault`` is what was wrong, None if nothing."""
        entry = {"number": number, "kind": kind, "fault": fault, **more}
        self.done[number] = entry
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, default=str) + "\n")
        if fault:
            print(f"{self.name} {number}, {kind}: {fault}", file=sys.stderr, flush=True)

    def close(self, **figures: Any) -> int:
        """Write NAME.json, print one line; 1 if there were faults."""
        entries = [self.done[n] for n in sorted(self.done) if n < self.count]
        faults = [entry for entry in entries if entry["fault"]]
        kinds = Counter(entry["kind"] for entry in entries)
        report = {
            "campaign": self.name,
            "date": str(date.today()),
            "command": shlex.join(["python", "-m", f"stress.{self.name}", *sys.argv[1:]]),
            "machine": machine(),
            "seed": self.args.seed,
            "attempts": len(entries),
            "seconds": round(time.monotonic() - self.began, 1),
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
        found = {}
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # cut off when the campaign was killed
                continue
            found[entry["number"]] = entry
        return found


def machine() -> str:
    """Processor and how many of it."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} cores"


def status(pid: int, key: str) -> int:
    """A number of /proc/PID/status, such as VmRSS in KiB; 0 where there is none."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return next((int(line.split()[1]) for line in file if line.startswith(f"{key}:")), 0)
    except OSError:
        return 0
