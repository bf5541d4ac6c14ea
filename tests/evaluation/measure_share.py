"""One process of a job that measures; on its own because the processes import it, and not much else."""

import json
import pickle
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from libradet.evaluation.coco_evaluator import CocoEvaluator


def measure_share(rank: int, folder: Path, masks: bool = False) -> None:
    """Measure the pickled batches of ``rank``, and write down what this process takes for the joint result."""
    # If the other process dies, this one does not wait for it for ever.
    patience = timedelta(minutes=3)
    dist.init_process_group("gloo", f"file://{folder / 'store'}", patience, rank=rank, world_size=2)
    evaluator = CocoEvaluator(pickle.loads((folder / "dataset").read_bytes()), masks=masks)
    for detections, batch in pickle.loads((folder / f"share{rank}").read_bytes()):
        evaluator.update(detections, batch)
    (folder / f"{rank}.json").write_text(json.dumps([evaluator.compute(), evaluator.results()]))
    dist.destroy_process_group()
