"""Detections, losses and gradients match torchvision's Faster R-CNN with the same weights and image."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from libradet.data.batch import Batch
from libradet.models.config import BackboneConfig, BoxLossConfig, DetectorConfig, ProposalConfig
from libradet.models.detector import Detector
from libradet.models.zoo import make_config

HEIGHT, WIDTH, CLASSES = 192, 256, 4
CHANNELS, HIDDEN = 32, 64
OUR_PARTS = {
    "backbone.fpn.inner_blocks.": "pyramid.lateral.",
    "backbone.fpn.layer_blocks.": "pyramid.output.",
    "rpn.head.conv.0.0.": "rpn.convs.0.",
    "rpn.head.cls_logits.": "rpn.logits.",
    "rpn.head.bbox_pred.": "rpn.deltas.",
    "roi_heads.box_head.fc6.": "roi.fc1.",
    "roi_heads.box_head.fc7.": "roi.fc2.",
    "roi_heads.box_predictor.cls_score.": "roi.logits.",
    "roi_heads.box_predictor.bbox_pred.": "roi.deltas.",
}


def theirs(backbone: str) -> FasterRCNN:
    """Random weights, scaled so that scores and boxes spread as those of a trained model do."""
    torch.manual_seed(0)
    body = torchvision.models.get_model(backbone, weights=None, norm_layer=FrozenBatchNorm2d)
    for m in body.modules():
        if isinstance(m, FrozenBatchNorm2d):
            m.weight.uniform_(0.3, 0.7)
            m.bias.normal_(std=0.1)
            m.running_mean.normal_(std=0.1)
            m.running_var.uniform_(0.5, 1.5)
    channels = [body.fc.in_features // 2**i for i in (3, 2, 1, 0)]
    pyramid = BackboneWithFPN(body, {f"layer{i}": str(i - 1) for i in range(1, 5)}, channels, CHANNELS)
    model = FasterRCNN(
        pyramid,
        min_size=HEIGHT,
        max_size=WIDTH,
        rpn_anchor_generator=AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5),
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2),
        box_head=TwoMLPHead(CHANNELS * 49, HIDDEN),
        box_predictor=FastRCNNPredictor(HIDDEN, CLASSES + 1),
        rpn_pre_nms_top_n_train=150,
        rpn_post_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_test=400,
        # More room than candidates: nothing is left to chance.
        rpn_batch_size_per_image=2**18,
        box_batch_size_per_image=1024,
        box_positive_fraction=0.5,
        box_score_thresh=0.3,
    )
    rpn, roi = model.rpn.head, model.roi_heads.box_predictor
    spread(model, {rpn.cls_logits: 2.0, rpn.bbox_pred: 0.3, roi.cls_score: 2.0, roi.bbox_pred: 1.0})
    return model.eval()


def spread(model: FasterRCNN, layers: dict[nn.Module, float]) -> None:
    """Scale each channel of the layers to about this standard deviation, and mean 0, on the test image."""

    def scale(layer: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        others = [d for d in range(output.dim()) if d != 1]
        factor = layers[layer] / output.std()
        layer.weight.data *= factor
        layer.bias.data = (layer.bias.data - output.mean(others)) * factor
        hooks.pop(layer).remove()
        return layer.forward(*inputs)

    hooks = {layer: layer.register_forward_hook(scale) for layer in layers}
    with torch.no_grad():
        model.eval()([image()])


def image() -> torch.Tensor:
    """Float RGB 0..1, with structure on all scales."""
    g = torch.Generator().manual_seed(1)
    layers = [torch.rand(1, 3, HEIGHT // s, WIDTH // s, generator=g) for s in (4, 16, 64)]
    return sum(nn.functional.interpolate(x, (HEIGHT, WIDTH)) for x in layers)[0] / 3


def our_config(backbone: str) -> DetectorConfig:
    config = make_config("faster_rcnn", CLASSES, backbone)
    config.backbone = BackboneConfig(backbone, frozen_norm=True)
    config.pyramid.channels, config.roi.fc_dim = CHANNELS, HIDDEN
    config.rpn.anchors.rounded = True
    config.rpn.match.min_pos_iou = 0.0
    config.rpn.train_proposals = ProposalConfig(150, 200, 0.7, 1e-3)
    config.rpn.test_proposals = ProposalConfig(300, 400, 0.7, 1e-3)
    config.rpn.sampling.batch_size_per_image = 2**16
    config.roi.sampling.batch_size_per_image, config.roi.sampling.positive_fraction = 1024, 0.5
    config.roi.align.aligned = False
    config.roi.box_loss = BoxLossConfig("smooth_l1", beta=1 / 9)
    config.detections.score_thresh, config.detections.min_size = 0.3, 1e-2
    return config


def our_name(name: str) -> str:
    for part, ours in OUR_PARTS.items():
        if name.startswith(part):
            return ours + name.removeprefix(part).replace(".0.", ".")
    *path, module, kind = name.split(".")
    if path[-1:] == ["downsample"]:
        module = f"0.{'conv' if module == '0' else 'norm'}"
    else:
        module = module.replace("bn", "conv") + (".norm" if "bn" in module else ".conv")
    return ".".join([*path, module, kind])


def our_values(name: str, value: torch.Tensor) -> torch.Tensor:
    """Background is their first class and our last; they have deltas for background."""
    if "cls_score" in name:
        return value.roll(-1, 0)
    return value[4:] if "box_predictor.bbox_pred" in name else value


def ours(model: FasterRCNN, backbone: str) -> Detector:
    detector = Detector(our_config(backbone))
    state = {our_name(k): our_values(k, v) for k, v in model.state_dict().items()}
    missing, unexpected = detector.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("num_batches_tracked" in name for name in missing)
    return detector.eval()


def as_batch(boxes: torch.Tensor, labels: torch.Tensor) -> Batch:
    return Batch(
        image()[None] * 255,
        torch.tensor([[HEIGHT, WIDTH]]),
        boxes[None],
        labels[None],
        torch.zeros(1, len(labels), dtype=torch.bool),
    )


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_detections(backbone):
    model = theirs(backbone)
    detector = ours(model, backbone)
    with torch.no_grad():
        expected = model([image()])[0]
        detections = detector(as_batch(torch.zeros(1, 4), torch.tensor([-1])))
    number = len(expected["scores"])
    assert number > 20
    assert len(expected["labels"].unique()) > 1
    assert expected["scores"].std() > 0.05
    assert int(detections.valid.sum()) == number
    assert detections.valid[0, :number].all()
    torch.testing.assert_close(detections.scores[0, :number], expected["scores"], atol=1e-4, rtol=0)
    torch.testing.assert_close(detections.boxes[0, :number], expected["boxes"], atol=1e-3, rtol=0)
    assert torch.equal(detections.labels[0, :number], expected["labels"] - 1)


def test_losses_and_gradients():
    model = theirs("resnet18").train()
    detector = ours(model, "resnet18").train()
    # One ground truth: with several, an anchor claimed by one that fits another better goes to the other there.
    boxes, labels = torch.tensor([[60.0, 40, 150, 160]]), torch.tensor([2])
    expected = model([image()], [{"boxes": boxes, "labels": labels + 1}])
    losses = detector(as_batch(boxes, labels))
    pairs = {
        "rpn_class": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "class": "loss_classifier",
        "box": "loss_box_reg",
    }
    assert set(losses) == set(pairs)
    for key, name in pairs.items():
        assert expected[name] > 0
        torch.testing.assert_close(losses[key], expected[name], atol=1e-5, rtol=1e-4)
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    off = []
    for name, p in model.named_parameters():
        gradient = our_values(name, p.grad)
        difference = (detector.get_parameter(our_name(name)).grad - gradient).norm()
        off.append(float(difference / gradient.norm().clamp(min=1e-3)))
        # A unit whose input is all but zero may be on there and off here.
        assert off[-1] <= 1e-2, name
    assert np.median(off) <= 1e-3
