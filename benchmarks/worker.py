"""Worker process for one measurement: the job is a JSON argument, the result is printed as JSON."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import Case, Contender


def run(job: dict[str, Any]) -> Any:
    """Run a job and return its result. Imports are local, so that a process loads only what it measures."""
    kind, threads = job.pop("kind"), job.pop("threads")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if "case" in job:
        job["case"] = Case(**job["case"] | {"size": tuple(job["case"]["size"])})
    if "weights" in job:
        job["weights"] = Path(job["weights"])
    if kind == "step":
        from benchmarks.step import measure_step

        return measure_step(contender=Contender(**job.pop("contender")), **job)
    if kind == "memory_parts":
        from benchmarks.memory_parts import measure_parts

        return measure_parts(contender=Contender(**job.pop("contender")), **job)
    if kind == "weights":
        from benchmarks.torchvision_models import write_weights

        return write_weights(job["case"], job["weights"])
    if kind == "losses":
        from benchmarks.agreement import losses_agree

        return losses_agree(**job)
    if kind == "reference":
        from benchmarks.agreement import write_reference

        return write_reference(job["case"], job["weights"], Path(job["file"]))
    if kind == "proposals":
        from benchmarks.proposals import measure_proposals

        return measure_proposals(**job)
    if kind == "loader":
        from benchmarks.loader import measure_loader

        return measure_loader(folder=Path(job.pop("folder")), **job)
    if kind == "peak_flops":
        from benchmarks.kernel_replay import measure_peak_flops

        return measure_peak_flops("fp32")
    if kind == "scaling":
        from benchmarks.scaling import measure_scaling

        return measure_scaling(**job)
    if kind == "operations":
        from benchmarks.operations import measure_operations

        return measure_operations(**job)
    if kind == "evaluation":
        from benchmarks.evaluation import measure_evaluation

        return measure_evaluation(**job)
    raise ValueError(f"unknown job {kind!r}")


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
