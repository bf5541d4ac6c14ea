"""Description of the machine and the software versions, for the head of a report."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torchvision

from benchmarks.processes import HERE

VECTOR_INSTRUCTIONS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX-512-BF16", "amx_bf16": "AMX-BF16"}


def describe_machine(threads: int, before: Path | None, restriction: str | None = None) -> dict[str, Any]:
    """Return date, processor, vector instructions, load, versions and commits.

    Args:
        restriction: widest vector instructions that are used, such as "avx2".
    """
    cpu = _cpuinfo()
    flags = cpu.get("flags", "").split()
    instructions = [name for flag, name in VECTOR_INSTRUCTIONS.items() if flag in flags]
    restricted = instructions if restriction is None else [VECTOR_INSTRUCTIONS[restriction]]
    commits = {"ours": read_commit(HERE)} | ({"before": read_commit(before)} if before else {})
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": cpu.get("model name", platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "threads": threads,
        "instructions": restricted,
        "not used": [name for name in instructions if name not in restricted],
        "torch computes in": torch.backends.cpu.get_cpu_capability(),
        "load": round(os.getloadavg()[0], 1),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        "commits": commits,
    }


def read_commit(source: Path) -> str:
    """Return the commit of a checkout, marked if files differ from it."""
    git = ["git", "-C", str(source)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "."], capture_output=True, text=True).stdout.strip()
    return (head or "unknown") + (" (modified)" if changed else "")


def _cpuinfo() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def kind_of(instructions: list[str]) -> str:
    """Return the processors with which results are comparable: the widest vectors, and bf16 if there is that."""
    width = "avx512" if "AVX-512" in instructions else "avx2" if "AVX2" in instructions else "baseline"
    return f"{width}_bf16" if {"AVX-512-BF16", "AMX-BF16"} & set(instructions) else width
