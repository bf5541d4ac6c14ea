"""Memory of a function, and time of commands."""

import resource
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

Times = tuple[float, float]
"""Wall time and processor time in seconds."""


def peak_allocated(function: Callable[[], Any]) -> int:
    """Return the largest number of bytes that are allocated on the CPU within a call beside those that were before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    allocated = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            allocated += event.nbytes()
            peak = max(peak, allocated)
    return peak


def time_commands(commands: Sequence[Sequence[str]], folder: str, check: bool) -> list[Times]:
    """Run each command once in a folder, and return its times.

    Args:
        check: stop if one fails.
    """
    times = []
    for command in commands:
        start, cpu_start = time.perf_counter(), children_cpu_seconds()
        subprocess.run(command, cwd=folder, capture_output=True, check=check)
        times.append((time.perf_counter() - start, children_cpu_seconds() - cpu_start))
    return times


def children_cpu_seconds() -> float:
    """Return the processor time of all finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
