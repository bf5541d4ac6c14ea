"""One process of a distributed evaluation; a module of its own, because spawned processes import it."""

import json
import pickle
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from libradet.evaluation.evaluator import CocoEvaluator


def evaluate_share(rank: int, folder: Path) -> None:
    """Evaluate the pickled batches of ``rank``, of boxes and of masks, and write what this process computes."""
    # A process whose peer has died must not wait forever.
    dist.init_process_group("gloo", f"file://{folder / 'store'}", timedelta(minutes=10), rank=rank, world_size=2)
    outputs = {}
    for kind in ("boxes", "masks"):
        evaluator = CocoEvaluator(pickle.loads((folder / "dataset").read_bytes()), masks=kind == "masks")
        for detections, batch in pickle.loads((folder / f"share{rank}").read_bytes()):
            evaluator.update(detections, batch)
        outputs[kind] = [evaluator.compute(), evaluator.results()]
    (folder / f"{rank}.json").write_text(json.dumps(outputs))
    dist.destroy_process_group()
