"""Measurements in their own processes, each with the libradet to be measured."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HERE = ROOT / "src"
OUT_OF_TIME = "ended by the time budget"


def run_job(
    kind: str, threads: int, source: Path = HERE, timeout: float = math.inf, python: str = sys.executable, **job: Any
) -> Any:
    """Run a job of :mod:`benchmarks.worker`; return its result, or ``{"error": ...}`` if the process failed.

    Args:
        source: folder that contains the package libradet.
        timeout: seconds after which the process and those that it started are killed.
        python: of the environment to run in.
    """
    for key, value in job.items():
        if isinstance(value, Path):
            job[key] = str(value)
        elif hasattr(value, "__dataclass_fields__"):
            job[key] = asdict(value)
    paths = [str(source.resolve()), str(ROOT)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(threads)}
    command = [python, "-m", "benchmarks.worker", json.dumps({"kind": kind, "threads": threads, **job})]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=None if math.isinf(timeout) else timeout)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            return {"error": OUT_OF_TIME}
        raise
    if process.returncode < 0:
        return {"error": f"terminated by {signal.Signals(-process.returncode).name}; possibly out of memory"}
    if process.returncode:
        return {"error": (stderr.strip().splitlines() or ["no output"])[-1][:300]}
    return json.loads(stdout.splitlines()[-1])
