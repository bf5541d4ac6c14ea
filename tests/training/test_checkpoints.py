"""Tests of the decision on the best weights."""

import json
import math

import lightning.pytorch as pl
import pytest
import torch

from libradet.training.checkpoints import BestCheckpoint


@pytest.mark.parametrize(
    ("before", "now", "better"),
    [(None, 0.0, True), (0.3, 0.31, True), (0.3, 0.3, False), (0.3, 0.2, False), (0.3, math.nan, True)],
)
def test_best_checkpoint_is_that_of_the_highest_score(tmp_path, before, now, better):
    """Also if an earlier process measured it; without objects, the latest is kept."""
    if before is not None:
        (tmp_path / "metrics.json").write_text(json.dumps({"AP": before}))
    best = BestCheckpoint(tmp_path, "val/AP", print)
    assert (
        best.check_monitor_top_k(
            pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False), torch.tensor(now)
        )
        == better
    )
