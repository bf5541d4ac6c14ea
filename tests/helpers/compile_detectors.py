"""Compile detectors as one graph each and compare the results with eager execution.

A separate script, without the run-time type checks of the test suite, which cannot be compiled.

    python -m tests.helpers.compile_detectors NAME ...

A plus after a name enables uncertainty weighting, IoU prediction and Soft-NMS or IoU-guided NMS; ``NAME=KIND`` balances
classes in the loss of the box head.
"""

import sys
from copy import deepcopy

import torch

from libradet.geometry.masks import pack_masks
from libradet.models.config import ClassBalanceConfig, IoUConfig
from tests.helpers.tiny_detectors import take_all_samples, tiny_batch, tiny_config, tiny_detector, tiny_zoo_config


def check(name: str) -> None:
    """A training step and a detection, each without a graph break."""
    config = tiny_zoo_config(name.removesuffix("+"), backbone="resnet18")
    if name.endswith("+"):
        config.uncertainty_weighting, config.detections.nms_type = True, "soft_linear"
        if config.roi is not None:
            config.roi.iou, config.detections.score_fusion = IoUConfig(), "iou_guided" if config.cascade else "multiply"
            config.detections.nms_type = "nms" if config.cascade else "soft_gaussian"
    model = tiny_detector(config)
    batch = tiny_batch(size=(64, 128), proposals=20, masks=model.config.mask is not None)
    if batch.masks is not None:
        batch = batch._replace(masks=pack_masks(batch.masks))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    # The second batch has no objects, and runs through the graph of the first.
    empty = batch._replace(boxes=torch.zeros_like(batch.boxes), labels=torch.full_like(batch.labels, -1))
    for images in (batch, empty):
        losses = {}
        for kind, call in (("plain", model), ("compiled", compiled)):
            torch.manual_seed(3)
            model.zero_grad()
            losses[kind] = call(images)
            sum(losses[kind].values()).backward()
        assert losses["plain"].keys() == losses["compiled"].keys()
        # Chance is not drawn alike by a compiled graph, so losses over samples agree only roughly.
        assert all(loss.isfinite() for loss in losses["compiled"].values())
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    model.eval()
    with torch.no_grad():
        plain, compiled_result = model(batch), compiled(batch)
    torch.testing.assert_close(compiled_result, plain, atol=1e-3, rtol=1e-3)


def check_class_balance(name: str, kind: str) -> None:
    """Training steps with balanced classes, without chance: losses, gradients and what is counted are the same."""
    config = take_all_samples(tiny_config(name))
    config.roi.class_balance = ClassBalanceConfig(kind, frequencies=(50, 5, 1))
    config.roi.sampling.negatives = "ohem"
    model = tiny_detector(config)
    model.backbone.eval()  # its norms count, too
    before = deepcopy(model.state_dict())
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)
    results = {}
    for run, call in (("plain", model), ("compiled", compiled)):
        model.load_state_dict(before)
        results[run] = []
        for seed in (1, 2):
            model.zero_grad()
            losses = call(tiny_batch(seed=seed))
            sum(losses.values()).backward()
            gradients = {name: p.grad.clone() for name, p in model.roi.named_parameters()}
            counted = {name: buffer.clone() for name, buffer in model.roi.named_buffers()}
            results[run].append((losses, gradients, counted))
    torch.testing.assert_close(results["compiled"], results["plain"], rtol=1e-3, atol=1e-5)
    counted = [values for *_, values in results["compiled"]]
    changes = any(not torch.equal(counted[0][name], counted[1][name]) for name in counted[0])
    assert changes == (kind in ("seesaw", "eql_v2"))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        check_class_balance(*name.split("=")) if "=" in name else check(name)
        print("compiled", name, flush=True)
