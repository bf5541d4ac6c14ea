"""One process of a job that measures; on its own because the processes import it, and not much else."""

import json
import pickle
from pathlib import Path

import torch
import torch.distributed as dist

from libradet.evaluation.coco_evaluator import CocoEvaluator


def measure_share(rank: int, folder: Path) -> None:
    """Measure the pickled batches of ``rank``, and write down what this process takes for the joint result."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    evaluator = CocoEvaluator(pickle.loads((folder / "dataset").read_bytes()))
    for detections, batch in pickle.loads((folder / f"share{rank}").read_bytes()):
        evaluator.update(detections, batch)
    (folder / f"{rank}.json").write_text(json.dumps([evaluator.compute(), evaluator.results()]))
    dist.destroy_process_group()
