"""One measurement in a process of its own: a job comes as JSON, a result leaves as JSON."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import Case, Contender


def do(job: dict[str, Any]) -> Any:
    """Dispatch. Imports are late, so that a process holds only what it measures."""
    kind, threads = job.pop("do"), job.pop("threads")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if "case" in job:
        job["case"] = Case(**job["case"] | {"size": tuple(job["case"]["size"])})
    if "weights" in job:
        job["weights"] = Path(job["weights"])
    if kind == "step":
        from benchmarks.step import measure

        return measure(contender=Contender(**job.pop("contender")), **job)
    if kind == "weights":
        from benchmarks.torchvision_models import write_weights

        return write_weights(job["case"], job["weights"])
    if kind == "agreement":
        from benchmarks import agreement

        infer = job["case"].task == "infer"
        return (agreement.detections_agree if infer else agreement.losses_agree)(**job)
    if kind == "growth":
        from benchmarks.growth import measure_growth

        return measure_growth(**job)
    if kind == "operations":
        from benchmarks.operations import measure_operations

        return measure_operations(**job)
    if kind == "evaluation":
        from benchmarks.evaluation import measure_evaluation

        return measure_evaluation(**job)
    raise ValueError(f"no such job: {kind}")


if __name__ == "__main__":
    print(json.dumps(do(json.loads(sys.argv[1]))))
