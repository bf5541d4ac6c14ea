"""Compile small backbones as one graph each, with gradients, and compare the features with eager execution.

A separate script, without the run-time type checks of the test suite, which cannot be compiled.

    python -m tests.helpers.compile_backbones
"""

import pytest
import torch

from libradet.models.backbone import Backbone
from libradet.models.config import BackboneConfig, LoraConfig
from tests.helpers.small_backbones import SMALL, make_small


def check(config: BackboneConfig) -> None:
    """Features and gradients of two batches of one size."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    backbone = Backbone(config).eval()
    compiled = torch.compile(backbone, backend="aot_eager", fullgraph=True, dynamic=False)
    for _ in range(2):
        images, results = torch.randn(2, 3, 64, 96), []
        for call in (backbone, compiled):
            backbone.zero_grad()
            features = call(images)
            sum(f.square().sum() for f in features).backward()
            gradients = [p.grad.clone() for p in backbone.parameters() if p.grad is not None]
            results.append([f.detach() for f in features] + gradients)
        torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, config.name


def main() -> None:
    """Check each, alone and, if it has attention, with adapters."""
    torch.set_num_threads(1)
    for name in SMALL:
        with pytest.MonkeyPatch.context() as monkeypatch:
            make_small(monkeypatch, name)
            check(BackboneConfig(name))
            if not name.startswith("convnext"):
                check(BackboneConfig(name, lora=LoraConfig(2)))
        print(name, flush=True)


if __name__ == "__main__":
    main()
