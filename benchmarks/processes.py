"""Measurements in their own processes, each with the libradet to be measured."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HERE = ROOT / "src"


def run_job(kind: str, threads: int, source: Path = HERE, **job: Any) -> Any:
    """Run a job of :mod:`benchmarks.worker`; return its result, or ``{"error": ...}`` if the process failed.

    Args:
        source: folder that contains the package libradet.
    """
    for key, value in job.items():
        if isinstance(value, Path):
            job[key] = str(value)
        elif hasattr(value, "__dataclass_fields__"):
            job[key] = asdict(value)
    paths = [str(source.resolve()), str(ROOT)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "benchmarks.worker", json.dumps({"kind": kind, "threads": threads, **job})]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    if done.returncode < 0:
        return {"error": f"terminated by {signal.Signals(-done.returncode).name}; possibly out of memory"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])
