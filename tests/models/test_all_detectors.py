"""Every model of the zoo: training, detection, images without objects, saving, and compilation to one graph."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from libradet.errors import UserError
from libradet.models.config import CascadeConfig, MaskConfig, RoIConfig
from libradet.models.detector import Detector
from libradet.models.serialization import load_model, save_model
from libradet.models.zoo import MODELS
from tests.helpers.tiny_detectors import tiny_batch, tiny_detector, tiny_zoo_config

ROOT = Path(__file__).resolve().parents[2]
BALANCED_CLASSES = ["faster_rcnn=inverse_frequency", "faster_rcnn=seesaw", "faster_rcnn=eql_v2", "cascade_rcnn=eql_v2"]
LOSSES = {
    "rpn": {"rpn_class", "rpn_box"},
    "fast_rcnn": {"class", "box"},
    "faster_rcnn": {"rpn_class", "rpn_box", "class", "box"},
    "retinanet": {"class", "box"},
    "cascade_rcnn": {"rpn_class", "rpn_box", *(f"{part}_{k}" for part in ("class", "box") for k in (1, 2, 3))},
    "mask_rcnn": {"rpn_class", "rpn_box", "class", "box", "mask"},
}


def batch_for(model, boxes=((5, 6, 50, 40), (30, 20, 90, 60)), labels=(0, 2)):
    batch = tiny_batch(boxes, labels, size=(64, 128), masks=model.config.mask is not None)
    return batch._replace(proposals=tiny_batch(proposals=20).proposals)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("objects", [True, False])
def test_losses_are_finite_and_reach_every_parameter(name, objects):
    model = tiny_detector(tiny_zoo_config(name))
    losses = model(batch_for(model) if objects else batch_for(model, (), ()))
    assert losses.keys() == LOSSES[name.removeprefix("libra_").removeprefix("balanced_")]
    torch.stack(list(losses.values())).sum().backward()
    for part, loss in losses.items():
        assert loss.isfinite(), part
        assert (loss > 0) == (objects or "class" in part), part
    for part, p in model.named_parameters():
        assert p.grad is not None, part
        assert p.grad.isfinite().all(), part


@pytest.mark.parametrize("name", MODELS)
def test_detections_are_well_formed(name):
    model = tiny_detector(tiny_zoo_config(name)).eval()
    batch = batch_for(model)
    batch = batch._replace(sizes=torch.tensor([[64, 128], [50, 90]]))
    with torch.no_grad():
        detections = model(batch)
    assert detections.valid.any(1).all()
    for b, (height, width) in enumerate(batch.sizes.tolist()):
        boxes, scores = detections.boxes[b][detections.valid[b]], detections.scores[b][detections.valid[b]]
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (scores.diff() <= 0).all()
        assert ((scores > 0) & (scores <= 1)).all()
        assert not detections.boxes[b][~detections.valid[b]].any()
    assert (detections.labels < model.config.num_classes).all()
    assert not (model.config.is_proposal_model and detections.labels.any())
    assert (detections.masks is not None) == (model.config.mask is not None)
    if detections.masks is not None:
        assert detections.masks.shape == (*detections.valid.shape, 28, 28)
        assert ((detections.masks >= 0) & (detections.masks <= 1)).all()


@pytest.mark.parametrize("name", MODELS)
def test_detections_of_black_images_are_well_formed(name):
    """Black images without objects, one of them smaller than its padded size, and no proposals."""
    model = tiny_detector(tiny_zoo_config(name)).eval()
    batch = batch_for(model, (), ())
    sizes = torch.tensor([[64, 128], [1, 1]])
    batch = batch._replace(images=torch.zeros_like(batch.images), sizes=sizes, proposals=torch.zeros(2, 20, 4))
    with torch.no_grad():
        detections = model(batch)
    total = model.config.detections.detections_per_img if model.config.rpn is None or model.roi is not None else 60
    assert detections.boxes.shape == (2, total, 4)
    assert detections.scores.shape == detections.labels.shape == detections.valid.shape == (2, total)
    assert detections.boxes.isfinite().all()
    assert ((detections.scores > 0) == detections.valid).all()
    assert (detections.boxes[1] <= 1).all()
    if model.config.rpn is None and model.roi is not None:
        assert not detections.valid.any(), "no detections without proposals"


@pytest.mark.parametrize("name", MODELS)
def test_saved_model_has_the_same_detections(name, tmp_path):
    model = tiny_detector(tiny_zoo_config(name)).eval()
    save_model(model, tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert again.config == model.config
    batch = batch_for(model)
    with torch.no_grad():
        for a, b in zip(model(batch), again(batch), strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MODELS, "mask_rcnn+", "cascade_rcnn+", "retinanet+", *BALANCED_CLASSES])
def test_training_and_detection_compile_to_one_graph(name):
    subprocess.run([sys.executable, "-m", "tests.helpers.compile_detectors", name], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("retinanet", {"roi": RoIConfig()}, "set roi to null"),
        ("faster_rcnn", {"rpn": None, "roi": None}, "has no head"),
        ("rpn", {"mask": MaskConfig()}, "need roi"),
        ("cascade_rcnn", {"cascade": CascadeConfig(iou_thresholds=(0.5, 0.6))}, "one entry per stage"),
    ],
)
def test_incompatible_heads_are_refused(name, changes, words):
    config = tiny_zoo_config(name)
    for field, value in changes.items():
        setattr(config, field, value)
    with pytest.raises(UserError, match=words):
        Detector(config)


def test_missing_proposals_are_refused():
    model = tiny_detector(tiny_zoo_config("fast_rcnn"))
    with pytest.raises(UserError, match="the batch has none; libradet predict writes them"):
        model(tiny_batch())
