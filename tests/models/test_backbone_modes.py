"""Plain ViTs, Swin transformers and the ConvNeXt of DINOv3 in bf16, in the statistics, and compiled."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from libradet.models.detector import Detector
from libradet.models.optimize import optimize
from libradet.models.profiling.model_stats import compute_stats
from tests.helpers.small_backbones import SMALL, make_small
from tests.helpers.tiny_detectors import tiny_batch, tiny_detector, tiny_zoo_config


@pytest.fixture(params=SMALL)
def config(request, monkeypatch):
    make_small(monkeypatch, request.param)
    return tiny_zoo_config("retinanet", backbone=request.param)


def test_bf16_trains_and_detects(config):
    model, batch = tiny_detector(config).train(), tiny_batch()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(batch)
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimized = optimize(model.eval(), "bf16")
    with torch.inference_mode():
        for own, theirs in zip(optimized.extract_features(batch), model.extract_features(batch), strict=True):
            assert (own.float() - theirs).norm() < 0.05 * theirs.norm()
        assert optimized(batch).boxes.isfinite().all()


STATISTICS = [name if name == "test_vit" else pytest.param(name, marks=pytest.mark.slow) for name in SMALL]


@pytest.mark.parametrize("config", STATISTICS, indirect=True)
def test_statistics_count_attention(config):
    """Twice the width has more than twice the multiply-adds exactly where attention is global."""
    counts = []
    for size in ((256, 256), (256, 512), (256, 768)):  # whole windows of Swin v2 at stride 32
        config.image.size, config.image.size_divisible = size, 256
        stats = compute_stats(config)
        counts.append(stats.multiply_adds)
    model = Detector(config)
    assert stats.num_params == sum(p.numel() for p in model.parameters())
    assert stats.weight_bytes == sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    growth = counts[2] - 2 * counts[1] + counts[0]
    is_global = "swin" not in config.backbone.name and "convnext" not in config.backbone.name
    assert (growth > 0.001 * counts[0]) == is_global


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="torch.compile needs more than is installed there")
def test_compiled_backbones_are_one_graph():
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.helpers.compile_backbones"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == list(SMALL)
