"""torchvision's Faster R-CNN on MobileNetV3-Large: features, proposals, losses, settings, and what is refused."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.models import get_model, mobilenet_v3_large
from torchvision.models.detection.backbone_utils import _mobilenet_extractor
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d

from libradet.data.batch import Batch
from libradet.errors import UserError
from libradet.interop import coco_weights, torchvision_models
from libradet.interop.coco_weights import BUILDER, PublishedWeights
from libradet.interop.loading import load_checkpoint
from libradet.interop.saving import save_checkpoint_as
from libradet.interop.torchvision_models import infer_config
from libradet.interop.weights_cache import cache_path, local_weights
from libradet.models.backbone import Backbone, layer_depths
from libradet.models.build import create_model
from libradet.models.config import BackboneConfig, BoxLossConfig, DetectorConfig
from libradet.models.detector import Detector
from libradet.models.serialization import read_config
from libradet.models.zoo import make_config
from tests.helpers.tiny_detectors import tiny_batch, tiny_detector
from tests.interop.test_torchvision_models import make, spread_outputs

NAME, SMALLER = "fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"
SIZE = (192, 256)


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return get_model(name, weights=None, weights_backbone=None)


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """Names and shapes of the published weights, whose frozen norms count no batches."""
    state = on_meta(NAME).state_dict()
    return {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[nn.Module, Detector]:
    """Both detectors with room for all samples, so that nothing is left to chance, and torchvision's matching."""
    torch.manual_seed(0)
    room = {"rpn_batch_size_per_image": 2**13, "box_batch_size_per_image": 1024, "box_positive_fraction": 0.5}
    there = make(NAME, num_classes=6, min_size=SIZE[0], max_size=SIZE[1], **room)
    there.roi_heads.box_head, there.roi_heads.box_predictor = TwoMLPHead(256 * 49, 32), FastRCNNPredictor(32, 6)
    spread_outputs(there, cls_logits=2.0)
    there.transform.min_size = SIZE[:1]
    path = tmp_path_factory.mktemp("torchvision") / "x.pth"
    torch.save({n: t for n, t in there.state_dict().items() if not n.endswith("num_batches_tracked")}, path)
    here = load_checkpoint(path).model
    path.unlink()
    here.config.rpn.match.min_pos_iou = 0.0
    here.config.rpn.sampling.batch_size_per_image = 2**13
    here.config.roi.sampling.batch_size_per_image, here.config.roi.sampling.positive_fraction = 1024, 0.5
    here.config.roi.box_loss = BoxLossConfig("smooth_l1", beta=1 / 9)
    return there, here


def image() -> torch.Tensor:
    """Float RGB 0..1 with structure on all scales."""
    g = torch.Generator().manual_seed(1)
    parts = [torch.rand(1, 3, SIZE[0] // s, SIZE[1] // s, generator=g) for s in (4, 16, 64)]
    return sum(nn.functional.interpolate(part, SIZE) for part in parts)[0] / 3


def as_batch(boxes: torch.Tensor, labels: torch.Tensor) -> Batch:
    crowd = torch.zeros(1, len(labels), dtype=torch.bool)
    return Batch(image()[None] * 255, torch.tensor([SIZE]), boxes[None], labels[None], crowd)


@torch.inference_mode()
def test_features_and_proposals(pair):
    there, here = pair
    images = there.transform([image()])[0]
    batch = as_batch(torch.zeros(1, 4), torch.tensor([-1]))
    expected, features = there.backbone(images.tensors), here.extract_features(batch)
    for level, other in zip(features, expected.values(), strict=True):
        assert other.std((2, 3)).mean() > 0.02
        torch.testing.assert_close(level, other, atol=1e-5, rtol=1e-4)
    output = here.rpn(features)
    proposals = here.rpn.propose(output, batch.sizes, training=False)
    [boxes], _ = there.rpn(ImageList(images.tensors, [SIZE]), expected)
    number = int(proposals.valid.sum())
    assert number == len(boxes) > 50
    # Compared without their order, which rounding decides where scores are equal.
    # Some anchors have hundreds of pixels, by which rounding errors of deltas are multiplied.
    distance = (proposals.boxes[0, :number, None] - boxes).abs().amax(2)
    assert distance.amin(0).max() < 0.01
    assert distance.amin(1).max() < 0.01
    # The threshold matters: without it there are more.
    assert proposals.scores[0, :number].min() >= 0.05
    assert (output.logits.sigmoid() < 0.05).sum() > 20


@torch.inference_mode()
def test_detections(pair):
    there, here = pair
    [expected], found = there([image()]), here(as_batch(torch.zeros(1, 4), torch.tensor([-1])))
    number = len(expected["scores"])
    assert number > 20
    assert expected["scores"].std() > 0.05
    assert int(found.valid.sum()) == number
    # Compared without their order, which some do not have: their scores are equal.
    expected["labels"] -= 1
    ours = torch.column_stack([found.boxes[0], found.scores[0], found.labels[0]])[:number]
    theirs = torch.column_stack([expected[key] for key in ("boxes", "scores", "labels")])
    differences = (ours[:, None] - theirs).abs()
    is_same = (differences[..., :4] < 0.01).all(2) & (differences[..., 4] < 1e-4) & (differences[..., 5] == 0)
    assert is_same.any(0).all()
    assert is_same.any(1).all()


def test_losses(pair):
    there, here = (model.train() for model in pair)
    there.backbone.eval()
    boxes, labels = torch.tensor([[60.0, 40, 150, 160]]), torch.tensor([2])
    with torch.no_grad():
        expected = there([image()], [{"boxes": boxes, "labels": labels + 1}])
    losses = here(as_batch(boxes, labels))
    names = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")
    for ours, theirs in zip(("rpn_class", "rpn_box", "class", "box"), names, strict=True):
        assert expected[theirs] > 0
        torch.testing.assert_close(losses[ours], expected[theirs], atol=1e-5, rtol=1e-4)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in here.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", [NAME, SMALLER])
def test_settings_are_those_of_the_function(name, tensors):
    config, model = infer_config(tensors, {BUILDER: name}), on_meta(name)
    proposals = config.rpn.test_proposals
    assert config.image.size == (model.transform.min_size[0], model.transform.max_size)
    assert proposals.pre_nms_top_n == model.rpn._pre_nms_top_n["testing"]
    assert proposals.post_nms_top_n == model.rpn._post_nms_top_n["testing"]
    assert proposals.score_thresh == config.rpn.train_proposals.score_thresh == model.rpn.score_thresh == 0.05
    assert config.rpn.train_proposals.pre_nms_top_n == model.rpn._pre_nms_top_n["training"]
    assert (config.rpn.anchors.sizes,) * 3 == model.rpn.anchor_generator.sizes
    assert config.backbone.frozen_norm
    assert config.class_names[0] == "person"


def test_the_same_layers_are_frozen(tensors):
    body = mobilenet_v3_large(weights=None, norm_layer=FrozenBatchNorm2d)
    theirs = _mobilenet_extractor(body, True, trainable_layers=3).named_parameters()
    config = infer_config(tensors, {})
    ours = dict(torchvision_models.layout(None, config).key_map)
    backbone = Backbone(config.backbone)
    frozen = {f"backbone.{n}".rpartition(".")[0] for n, p in theirs if not p.requires_grad and "body." in n}
    parameters = backbone.named_parameters(prefix="backbone")
    norms = (".norm", "bn1", "bn2", "bn3")  # which are no parameters of torchvision's
    layers = {n.rpartition(".")[0] for n, p in parameters if not p.requires_grad}
    assert {ours[layer] for layer in frozen} == {layer for layer in layers if not layer.endswith(norms)}
    assert len(frozen) == 24


def replaced(tensors: dict[str, torch.Tensor], **shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return tensors | {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"backbone.body.16.0.weight": (480, 80, 1, 1)},
            "not a supported MobileNet; the only one is MobileNetV3-Large",
        ),
        ({"backbone.fpn.inner_blocks.2.0.weight": (256, 960, 1, 1)}, r"features of \[160, 960, 960\] channels"),
        ({"backbone.fpn.inner_blocks.0.0.weight": (256, 112, 1, 1)}, r"only those of torchvision's own"),
    ],
)
def test_other_detectors_are_refused(tensors, changes, words):
    with pytest.raises(UserError, match=words):
        infer_config(replaced(tensors, **changes), {})


def test_retinanet_is_refused(tensors):
    shapes = {"head.classification_head.cls_logits.weight": (27, 256, 3, 3)}
    shapes |= {"head.regression_head.bbox_reg.weight": (36, 256, 3, 3)}
    shapes |= {"backbone.fpn.extra_blocks.p6.weight": (256, 256, 3, 3)}
    with pytest.raises(UserError, match="RetinaNet is on a MobileNet"):
        infer_config(replaced(tensors, **shapes), {})


@pytest.fixture(scope="module")
def small(tensors) -> Detector:
    """The detector with narrow heads."""
    config = infer_config(tensors, {})
    config.pyramid.channels, config.roi.fc_dim = 16, 32
    return tiny_detector(config).eval()


def test_the_smaller_images_of_published_weights(small, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = "https://weights.invalid/models/mobilenet.pth"
    plain = PublishedWeights(f"{NAME}_coco", "faster_rcnn", "mobilenetv3_large_100", "torchvision", "BSD-3-Clause", url)
    smaller = replace(plain, name=f"{SMALLER}_coco", url=url.replace("net.", "net_320."))
    monkeypatch.setattr(coco_weights, "COCO_WEIGHTS", (plain, smaller))
    configs = []
    for published in (plain, smaller):
        save_checkpoint_as(small, "torchvision", cache_path(published))
        configs.append(read_config(local_weights(published.name).path))
    assert [config.image.size for config in configs] == [(800, 1333), (320, 640)]
    assert [config.rpn.test_proposals.post_nms_top_n for config in configs] == [1000, 150]


@pytest.mark.parametrize("name", ["faster_rcnn", "balanced_faster_rcnn"])
def test_fine_tuning_keeps_the_pyramid_of_the_weights(small, name):
    model = create_model(name, 3, weights=small).train()
    assert model.strides == [32, 32, 64]
    assert {layer.partition(".")[0] for layer in model.reinitialized_layers} <= {"roi", "balance"}
    assert torch.equal(model.rpn.logits.weight, small.rpn.logits.weight)
    model.config.rpn.train_proposals.post_nms_top_n = 50
    losses = model(tiny_batch(size=(64, 96)))
    assert torch.stack(list(losses.values())).isfinite().all()


def test_layers_are_those_of_the_usual_features():
    usual, here = (Backbone(BackboneConfig("mobilenetv3_small_050", features=f)) for f in ("stages", "stride_32"))
    assert layer_depths(usual) == layer_depths(here)
    here.load_state_dict(usual.state_dict())
    images = torch.rand(1, 3, 64, 96)
    first, blocks = [], usual.body.blocks
    blocks[4][0].register_forward_hook(lambda *call: first.append(call[2]))
    expected, found = usual.eval()(images), here.eval()(images)
    assert (here.strides, here.channels) == ((32, 32), [first[0].shape[1], expected[-1].shape[1]])
    assert torch.equal(found[0], first[0])
    assert torch.equal(found[1], expected[-1])


@pytest.mark.parametrize(
    ("backbone", "features", "start_stride", "words"),
    [
        (
            "test_resnet",
            "stride_32",
            32,
            r"backbone\.features is stride_32, which needs a MobileNetV3 .*not test_resnet",
        ),
        ("mobilenetv3_small_050", "stride_32", 4, r"pyramid\.start_stride is 4; set it to 32$"),
        ("mobilenetv3_small_050", "stages", 64, r"pyramid\.start_stride is 64; set it to one of \(4, 8, 16, 32\)$"),
    ],
)
def test_settings_that_do_not_fit(backbone, features, start_stride, words):
    config: DetectorConfig = make_config("faster_rcnn", 3, backbone)
    config.backbone.features, config.pyramid.start_stride = features, start_stride
    with pytest.raises(UserError, match=words):
        Detector(config)
