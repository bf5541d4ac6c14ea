"""What the resident memory of a training step consists of at its peak, in libradet and in torchvision.

Each row is a process that runs three steps. The peak is that of the process after two, as in `python -m benchmarks`. A
tensor that is saved for the backward pass counts once, however many operations need it. "libraries" is what remains
resident between steps beside weights and momentum: torch, its compiler and Python modules, images, and caches of oneDNN
and MKL. "live" is the peak of allocated tensors beside weights and momentum, and "rest" what none of them explains:
memory that is free but not returned to the system, and buffers within operations. Settings of glibc's allocator are
those of the environment.

    python -m benchmarks.memory_parts
    MALLOC_MMAP_THRESHOLD_=1048576 python -m benchmarks.memory_parts --contenders 'ours-*'
"""

import argparse
import ctypes
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.cases import TRAIN, Case, Contender, shrink
from benchmarks.models import ModelUnderTest
from benchmarks.processes import run_job
from benchmarks.resources import peak_allocated

CONTENDERS = (
    Contender("ours", "fp32"),
    Contender("ours", "fp32", "checkpointed"),
    Contender("torchvision", "fp32", "plain"),
    Contender("torchvision", "fp32", "channels_last"),
)
PARTS = ("peak", "libraries", "weights", "momentum", "live", "rest", "saved")
SECONDS = "processor s"
MIB = 2**20


def measure_parts(case: Case, contender: Contender, weights: Path) -> dict[str, float]:
    """Return the parts in MiB, and the processor time of the second step in seconds.

    ``peak`` is the sum of ``libraries``, ``weights``, ``momentum``, ``live`` and ``rest``. ``saved`` is the part of
    ``live`` that the backward pass needs. The gradients of all parameters are as large as ``momentum``.
    """
    from benchmarks.step import make_step, peak_mib, prepare_model
    from benchmarks.synthetic_inputs import make_inputs

    subject = prepare_model(case, contender, make_inputs(case), weights)
    step = make_step(subject, case, contender.precision)
    with count_saved(subject) as saved:
        step()
    start = time.process_time()
    step()
    seconds, peak = time.process_time() - start, peak_mib()
    trained = [p for p in subject.model.parameters() if p.requires_grad]
    own = sum(p.nbytes for p in subject.model.parameters()) / MIB
    momentum = sum(p.nbytes for p in trained) / MIB
    # Gradients that are kept until the next forward pass are allocated, but not by the step that is recorded.
    kept = sum(p.grad.nbytes for p in trained if p.grad is not None) / MIB
    libraries = resident_mib() - own - momentum - kept  # before the profiler, which needs memory itself
    live = peak_allocated(step) / MIB + kept
    parts = {"peak": peak, "libraries": libraries, "weights": own, "momentum": momentum, "live": live}
    rest = peak - libraries - own - momentum - live
    return parts | {"rest": rest, "saved": sum(saved.values()) / MIB, SECONDS: seconds}


@contextmanager
def count_saved(subject: ModelUnderTest) -> Iterator[dict[int, int]]:
    """Within the context, collect the bytes of each storage that is saved for the backward pass, but parameters."""
    known = {p.untyped_storage().data_ptr() for p in (*subject.model.parameters(), *subject.model.buffers())}
    saved: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield saved


def resident_mib() -> float:
    """Return the resident memory of the process, after free memory was returned to the system where glibc can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def main() -> None:
    """Print a row for each contender."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contenders", nargs="+", default=["*"], metavar="PATTERN", help="only those that match one")
    parser.add_argument("--quick", action="store_true", help="tiny images")
    args = parser.parse_args()
    case = shrink(TRAIN) if args.quick else TRAIN
    contenders = [c for c in CONTENDERS if any(fnmatch(c.name, pattern) for pattern in args.contenders)]
    print(f"{case.name}, MiB\n{'':32}" + "".join(f"{name:>12}" for name in (*PARTS, SECONDS)))
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pth"
        failure = run_job("weights", args.threads, case=replace(case, task="infer", batch=1), weights=weights)
        if failure is not None:
            raise SystemExit(failure["error"])
        for contender in contenders:
            parts = run_job("memory_parts", args.threads, case=case, contender=contender, weights=weights)
            if "error" in parts:
                raise SystemExit(f"{contender.name}: {parts['error']}")
            print(
                f"{contender.name:32}" + "".join(f"{parts[name]:12.0f}" for name in PARTS) + f"{parts[SECONDS]:12.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
