"""A training step compiles to one graph; in a separate process, as run-time type checks of the tests break graphs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

STEP = """
import torch
from tests.helpers.tiny_detectors import take_all_samples, tiny_batch, tiny_config, tiny_detector

torch.set_num_threads(1)
config = take_all_samples(tiny_config())
config.roi.sampling.batch_size_per_image = 128
model = tiny_detector(config)
model.backbone.eval()  # so that a first step does not change what the second one computes

def step(function, batch):
    model.zero_grad()
    losses = function(batch)
    sum(losses.values()).backward()
    return losses, {name: p.grad.clone() for name, p in model.named_parameters()}

compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
for batch in (tiny_batch(), tiny_batch(boxes=((0, 0, 0, 0),) * 2, labels=(-1, -1), seed=2)):
    expected, expected_gradients = step(model, batch)
    losses, gradients = step(compiled, batch)
    for name in expected:
        torch.testing.assert_close(losses[name], expected[name], rtol=1e-4, atol=1e-6, msg=name)
    for name, gradient in expected_gradients.items():
        difference = (gradients[name] - gradient).norm()
        assert difference <= 1e-3 * gradient.norm() + 1e-6, name
graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
breaks = dict(torch._dynamo.utils.counters["graph_break"])
print("graphs", graphs, "breaks", breaks)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="torch.compile needs more than is installed there")
def test_a_training_step_is_one_graph():
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", STEP], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "graphs 1 breaks {}" in done.stdout
