"""torchvision's detectors in their Libra form: the paper's changes, and no others."""

import copy
import io
import math
import pickle
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from scipy.stats import chi2
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.models import get_model
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import MultiScaleRoIAlign, box_iou
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from libradet.errors import UserError
from libradet.interop.torchvision import BalancedRoIHeads, balance

CHANNELS, CLASSES = 16, 4
MANY_POSITIVES = {"box_fg_iou_thresh": 0.2, "box_bg_iou_thresh": 0.2}
# Its sides are multiples of 32, but of no more.
CANVAS = {"min_size": 96, "max_size": 160}
ANCHORS = AnchorGenerator(tuple((s,) for s in (8, 16, 32, 64, 128)), ((0.5, 1.0, 2.0),) * 5)


def backbone(first: int = 1, extra: nn.Module | None = None) -> BackboneWithFPN:
    body = nn.Sequential()
    for i, (inside, stride) in enumerate(((3, 4), (8, 2), (8, 2), (8, 2)), start=1):
        body.add_module(f"layer{i}", nn.Sequential(nn.Conv2d(inside, 8, 2 * stride - 1, stride, stride - 1), nn.ReLU()))
    return BackboneWithFPN(
        body, {f"layer{i}": str(i - first) for i in range(first, 5)}, [8] * (5 - first), CHANNELS, extra
    )


def two_stages(masks: bool = False, **options) -> FasterRCNN:
    align = partial(MultiScaleRoIAlign, ["0", "1", "2", "3"], sampling_ratio=2)
    options = {
        **{"rpn_anchor_generator": ANCHORS, "box_roi_pool": align(7), "box_head": TwoMLPHead(CHANNELS * 49, 32)},
        **{"box_predictor": FastRCNNPredictor(32, CLASSES), "box_score_thresh": 0.0},
        # All that the levels give are kept.
        **{f"rpn_pre_nms_top_n_{what}": 150 for what in ("train", "test")},
        **{f"rpn_post_nms_top_n_{what}": 600 for what in ("train", "test")},
        **CANVAS,
        **options,
    }
    if masks:
        options["mask_roi_pool"] = align(14)
        options["mask_head"] = MaskRCNNHeads(CHANNELS, (CHANNELS,), 1)
        options["mask_predictor"] = MaskRCNNPredictor(CHANNELS, CHANNELS, CLASSES)
    return (MaskRCNN if masks else FasterRCNN)(backbone(), **options)


def one_stage() -> RetinaNet:
    return RetinaNet(backbone(2, LastLevelP6P7(CHANNELS, CHANNELS)), CLASSES, score_thresh=0.0, **CANVAS)


KINDS: dict[str, Callable[..., nn.Module]] = {
    "faster_rcnn": two_stages,
    "mask_rcnn": partial(two_stages, masks=True),
    "retinanet": one_stage,
}


def make(kind: str = "faster_rcnn", **options) -> nn.Module:
    """The same random weights every time, with heads whose outputs differ."""
    torch.manual_seed(0)
    model = KINDS[kind](**options)
    for name, layer in model.named_modules():
        if name.endswith(("cls_score", "bbox_pred", "bbox_reg", "cls_logits")):
            nn.init.normal_(layer.weight, std=0.05)
    return model


def quietly_balanced(model: nn.Module, **options) -> nn.Module:
    return balance(model, **({"sampling": False} if isinstance(model, RetinaNet) else {}) | options)


def scene(empty: tuple[bool, ...] = (False, True)) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Images of different sizes, some without objects."""
    g = torch.Generator().manual_seed(1)
    images, targets = [], []
    for i, nothing in enumerate(empty):
        height, width = (100, 140) if i % 2 else (120, 96)
        boxes = torch.tensor([[8.0, 10, 60, 50], [30, 20, 90, 90], [5, 60, 30, 95]])[: 0 if nothing else 3]
        masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y0:y1, x0:x1] = 1
        images.append(torch.rand(3, height, width, generator=g))
        targets.append({"boxes": boxes, "labels": torch.tensor([1, 2, 3])[: len(boxes)], "masks": masks})
    return images, targets


def losses(model: nn.Module, seed: int = 3, **options) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return model.train()(*scene(**options))


def detections(model: nn.Module) -> list[dict[str, torch.Tensor]]:
    with torch.inference_mode():
        return model.eval()(scene()[0])


def same(a: list[dict[str, torch.Tensor]], b: list[dict[str, torch.Tensor]]) -> bool:
    return all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in zip(a, b, strict=True))


def balanced_l1(error: np.ndarray, beta: float) -> np.ndarray:
    """Equations 5 to 9 of the paper, with slope and value continuous at beta."""
    alpha, gamma, x = 0.5, 1.5, np.abs(error)
    b = math.exp(gamma / alpha) - 1
    inside = alpha / b * (b * x + beta) * np.log(b * x / beta + 1) - alpha * x
    return np.where(x < beta, inside, gamma * x + gamma * beta / b - alpha * beta)


# What stays unchanged


@pytest.mark.parametrize("kind", KINDS)
def test_without_components_nothing_changes(kind):
    plain, model = make(kind), make(kind)
    assert balance(model, sampling=False, pyramid=False, loss=False) is model
    assert model.state_dict().keys() == plain.state_dict().keys()
    expected, found = losses(plain), losses(model)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert same(detections(model), detections(plain))


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_and_loss_change_training_only(kind):
    plain, model = make(kind), quietly_balanced(make(kind), pyramid=False)
    assert model.state_dict().keys() == plain.state_dict().keys()
    found = detections(model)
    assert all(len(f["boxes"]) > 10 for f in found)
    assert same(found, detections(plain))


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_gains_the_pyramid_and_can_be_loaded(kind, tmp_path):
    plain, model = make(kind), quietly_balanced(make(kind))
    gained = model.state_dict().keys() - plain.state_dict().keys()
    assert gained == {
        f"backbone.balance.refine.{p}.{k}" for p in ("g", "theta", "phi", "out") for k in ("weight", "bias")
    }
    assert plain.state_dict().keys() <= model.state_dict().keys()
    torch.nn.init.normal_(model.backbone.balance.refine.out.weight)
    torch.save(model.state_dict(), tmp_path / "x.pth")
    torch.manual_seed(9)
    again = quietly_balanced(KINDS[kind]())
    again.load_state_dict(torch.load(tmp_path / "x.pth", weights_only=True), strict=True)
    assert same(detections(again), detections(model))
    assert not same(detections(quietly_balanced(make(kind))), detections(model))


def test_mode_and_dtype_are_kept():
    model = balance(make().double().eval())
    block = model.backbone.balance
    assert not block.training
    assert {p.dtype for p in block.parameters()} == {torch.float64}
    assert model.balanced == (True, True, True)


# Feature level


@pytest.mark.parametrize(("kind", "level"), [("faster_rcnn", 2), ("mask_rcnn", 2), ("retinanet", 1)])
def test_average_is_added_to_each_level(kind, level):
    """A fresh non-local block is the identity, so what is added is the plain average, resized."""
    plain, model = make(kind).eval(), quietly_balanced(make(kind)).eval()
    canvas, _ = model.transform(scene()[0])
    assert all(side % 32 == 0 for side in canvas.tensors.shape[2:])
    with torch.inference_mode():
        expected, found = plain.backbone(canvas.tensors), model.backbone(canvas.tensors)
    assert list(found) == list(expected)
    sizes = [x.shape[-2:] for x in expected.values()]
    assert any(a % b for coarse, fine in zip(sizes[1:], sizes, strict=False) for a, b in zip(fine, coarse, strict=True))

    def resize(x, size):
        if x.shape[-1] >= size[1]:
            return F.adaptive_max_pool2d(x, size)
        return F.interpolate(x, size=size, mode="nearest")

    average = sum(resize(x, sizes[level]) for x in expected.values()) / len(sizes)
    for name, x in expected.items():
        torch.testing.assert_close(found[name], x + resize(average, x.shape[-2:]), atol=1e-5, rtol=1e-5)


def test_pyramids_of_other_depths():
    torch.manual_seed(0)
    options = {"weights": None, "weights_backbone": None, "num_classes": CLASSES}
    model = balance(get_model("fasterrcnn_mobilenet_v3_large_320_fpn", **options, min_size=96))
    assert model.backbone.balance.level == 1
    assert all(v.isfinite() for v in losses(model).values())


# Sample level


def sample_all() -> dict[str, float]:
    return {"box_batch_size_per_image": 1000, "box_positive_fraction": 0.5} | MANY_POSITIVES


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn"])
def test_losses_equal_torchvisions_if_all_candidates_are_sampled(kind):
    plain, model = make(kind, **sample_all()), make(kind, **sample_all())
    balance(model, pyramid=False, loss=False)
    expected, found = losses(plain), losses(model)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert value > 0
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5)


def roi_heads(size: int, fraction: float) -> RoIHeads:
    model = make(box_batch_size_per_image=size, box_positive_fraction=fraction)
    return balance(model, pyramid=False, loss=False).roi_heads


def shifted(shifts: np.ndarray, row: int = 0) -> torch.Tensor:
    """Boxes of 100 x 100 pixels; their IoU with the one that is not shifted is (100 - d) / (100 + d)."""
    x = torch.from_numpy(shifts).float()
    return torch.stack([x, torch.full_like(x, 500.0 * row), x + 100, torch.full_like(x, 500.0 * row + 100)], 1)


DRAWS = 2000


def test_frequencies_of_negatives_follow_equation_1():
    """p_k = N/K * 1/M_k (equation 1): the same number from each third of [0, 0.5), all alike inside."""
    # IoU < 1/6, < 1/3 and < 1/2; and some positives.
    shifts = [np.linspace(72, 99, 60), np.linspace(51, 71, 25), np.linspace(34, 49, 15), np.linspace(1, 30, 4)]
    candidates, iou = shifted(np.concatenate(shifts)), box_iou(shifted(np.concatenate(shifts)), shifted(np.zeros(1)))
    edges = [int(((iou >= a / 6) & (iou < (a + 1) / 6)).sum()) for a in range(3)]
    assert edges == [60, 25, 15]
    heads = roi_heads(size=35, fraction=0.25)
    targets = [{"boxes": shifted(np.zeros(1)), "labels": torch.tensor([2])}] * DRAWS
    boxes, rows, labels, _ = heads.select_training_samples([candidates] * DRAWS, targets)
    # 4 candidates and the object itself are positives, so 30 negatives are taken.
    assert {len(b) for b in boxes} == {35}
    assert {int((label == 2).sum()) for label in labels} == {5}
    assert {int(row.max()) for row in rows} == {0}
    negatives = torch.cat(boxes)[torch.cat(labels) == 0, 0]
    taken = (negatives[:, None] == candidates[:, 0]).sum(0).numpy()
    assert (taken[100:] == 0).all()
    for k, (start, m) in enumerate(zip((0, 60, 85), (60, 25, 15), strict=True)):
        bin_ = taken[start : start + m]
        assert bin_.sum() == DRAWS * 10, k
        p = 10 / m
        # Members of a bin share a fixed quota, which takes a degree of freedom and widens what is left.
        statistic = ((bin_ - DRAWS * p) ** 2).sum() / (DRAWS * p * (1 - p)) * (m - 1) / m
        assert 1e-5 < chi2.sf(statistic, m - 1) < 1 - 1e-5


def test_equally_many_positives_per_object():
    many, few = shifted(np.linspace(1, 30, 40)), shifted(np.linspace(1, 30, 6), row=1)
    objects = torch.cat([shifted(np.zeros(1)), shifted(np.zeros(1), row=1)])
    target = {"boxes": objects, "labels": torch.tensor([3, 1])}
    heads = roi_heads(size=48, fraction=0.25)
    boxes, rows, labels, deltas = heads.select_training_samples([torch.cat([many, few])] * 200, [target] * 200)
    for box, row, label, delta in zip(boxes, rows, labels, deltas, strict=True):
        assert (box[:, 1] // 500).int().tolist() == row.tolist()
        assert label.tolist() == [[3, 1][i] for i in row.tolist()]
        assert row.bincount().tolist() == [6, 6]
        # As torchvision says: ten times the shift of the center over the width.
        torch.testing.assert_close(delta, torch.stack([-box[:, 0] / 10, *[0 * box[:, 0]] * 3], 1), atol=1e-4, rtol=0)


def test_settings_of_the_models_sampler_are_used():
    heads = roi_heads(size=20, fraction=0.5)
    heads.proposal_matcher.high_threshold, heads.proposal_matcher.low_threshold = 0.8, 0.2
    candidates = shifted(np.linspace(0, 99, 100))
    target = {"boxes": shifted(np.zeros(1)), "labels": torch.tensor([1])}
    boxes, _, labels, _ = heads.select_training_samples([candidates, candidates[90:]], [target] * 2)
    iou = [box_iou(b, target["boxes"])[:, 0] for b in boxes]
    assert [int((label > 0).sum()) for label in labels] == [10, 1]
    assert [len(b) for b in boxes] == [20, 11], "an image with fewer candidates gives what it has"
    assert all(
        (v[label > 0] >= 0.8).all() and (v[label == 0] < 0.2).all() for v, label in zip(iou, labels, strict=True)
    )


# Objective level


def test_roi_box_loss_is_balanced_l1():
    plain, model = make(**MANY_POSITIVES), balance(make(**MANY_POSITIVES), sampling=False, pyramid=False)
    seen = {}
    model.roi_heads.box_predictor.register_forward_hook(lambda m, i, o: seen.update(deltas=o[1].detach().double()))
    select = model.roi_heads.select_training_samples
    model.roi_heads.select_training_samples = lambda *a: seen.setdefault("samples", select(*a))
    expected, found = losses(plain), losses(model)
    _, _, labels, targets = (torch.cat(list(part)) for part in seen["samples"])
    total = 0.0
    for deltas, label, target in zip(seen["deltas"], labels.tolist(), targets.double(), strict=True):
        if label:
            total += balanced_l1((deltas[4 * label : 4 * label + 4] - target).numpy(), 1.0).sum()
    assert int((labels > 0).sum()) > 10
    assert targets[labels > 0].std() > 0.5
    assert found["loss_box_reg"].item() == pytest.approx(total / len(labels), rel=1e-5)
    assert all(torch.equal(found[name], expected[name]) for name in expected.keys() - {"loss_box_reg"})


@pytest.mark.parametrize("kind", ["l1", "giou"])
def test_retinanet_box_loss_is_balanced_l1(kind):
    plain, model = make("retinanet"), quietly_balanced(make("retinanet"), pyramid=False)
    seen = {}
    for one in (plain, model):
        one.head.regression_head._loss_type = kind
    compute = model.head.compute_loss
    model.head.compute_loss = lambda *given: seen.setdefault("given", given) and compute(*given)
    expected, found = losses(plain, empty=(False, True, False)), losses(model, empty=(False, True, False))
    targets, outputs, anchors, matched = seen["given"]
    totals = []
    for t, deltas, boxes, rows in zip(targets, outputs["bbox_regression"].detach(), anchors, matched, strict=True):
        positive = (rows >= 0).nonzero()[:, 0]
        a, b = boxes[positive].double().numpy(), t["boxes"][rows[positive]].double().numpy()
        size, wanted = a[:, 2:] - a[:, :2], b[:, 2:] - b[:, :2]
        goal = np.concatenate([((b[:, 2:] + b[:, :2]) - (a[:, 2:] + a[:, :2])) / 2 / size, np.log(wanted / size)], 1)
        totals.append(balanced_l1(deltas[positive].double().numpy() - goal, 0.11).sum() / max(len(positive), 1))
    assert totals[0] > 0
    assert totals[1] == 0
    assert found["bbox_regression"].item() == pytest.approx(np.mean(totals), rel=1e-4)
    assert torch.equal(found["classification"], expected["classification"])


# Training


@pytest.mark.parametrize("empty", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("kind", KINDS)
def test_training_step(kind, empty):
    model = quietly_balanced(make(kind))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    found = losses(model, empty=empty)
    assert all(v.isfinite() for v in found.values())
    sum(found.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert "backbone.balance.refine.out.weight" in changed
    if empty == (False, False):
        predictors = {n for n in before if n.endswith(("bbox_pred.weight", "bbox_reg.weight", "cls_score.weight"))}
        assert predictors
        assert predictors <= changed


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_loss(kind):
    model = quietly_balanced(make(kind))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06, momentum=0.9)
    course = []
    for _ in range(10):
        loss = sum(losses(model).values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        course.append(loss.item())
    assert course[-1] < 0.9 * course[0]


@pytest.mark.parametrize("kind", ["faster_rcnn", "retinanet"])
def test_copies_and_pickles_are_independent(kind):
    model = quietly_balanced(make(kind))
    expected = losses(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        assert all(torch.equal(value, expected[name]) for name, value in losses(other).items())
        for p in other.parameters():
            p.data.zero_()
        assert all(torch.equal(value, expected[name]) for name, value in losses(model).items())


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast(kind):
    model = quietly_balanced(make(kind))
    expected = losses(model)
    with torch.autocast("cpu", torch.bfloat16):
        found = losses(model)
    for name, value in found.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected[name].item(), rel=0.3, abs=0.05), name


@pytest.mark.parametrize("kind", ["faster_rcnn", "retinanet"])
def test_under_ddp(kind):
    model = quietly_balanced(make(kind))
    expected = losses(model)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        found = losses(DistributedDataParallel(model))
        sum(found.values()).backward()
    finally:
        dist.destroy_process_group()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert all(p.grad is not None for p in model.backbone.balance.parameters())


# Refusals


def test_balancing_twice_is_refused():
    model = balance(make())
    with pytest.raises(UserError, match="balanced already"):
        balance(model)
    assert len(model.backbone._forward_hooks) == 1


@pytest.mark.parametrize("name", ["fcos_resnet50_fpn", "ssdlite320_mobilenet_v3_large", "resnet18"])
def test_other_models_are_refused_by_name(name):
    model = get_model(name, weights=None, **({} if name == "resnet18" else {"weights_backbone": None}))
    before = model.state_dict().keys()
    with pytest.raises(UserError, match=rf"{type(model).__name__}.*FasterRCNN, MaskRCNN and RetinaNet"):
        balance(model)
    assert model.state_dict().keys() == before


def test_wrapped_models_are_refused():
    with pytest.raises(UserError, match=r"DataParallel.*wrap it afterwards"):
        balance(nn.DataParallel(make()))


class OwnHeads(RoIHeads):
    def select_training_samples(self, proposals, targets):
        return super().select_training_samples(proposals, targets)


def test_heads_with_their_own_sampling_are_refused():
    model = make()
    model.roi_heads.__class__ = OwnHeads
    with pytest.raises(UserError, match=r"OwnHeads.*select_training_samples.*sampling=False"):
        balance(model)
    assert not hasattr(model.backbone, "balance")
    balance(model, sampling=False)
    assert isinstance(model.roi_heads, OwnHeads)
    assert isinstance(model.roi_heads, BalancedRoIHeads)
    assert losses(model)["loss_box_reg"].isfinite()


def test_methods_replaced_on_the_instance_are_refused():
    model = make()
    model.roi_heads.select_training_samples = model.roi_heads.select_training_samples
    with pytest.raises(UserError, match=r"select_training_samples.*sampling=False"):
        balance(model)


def test_backbones_without_pyramid_are_refused():
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 16, 1))
    body.out_channels = 8
    anchors, pool = AnchorGenerator(((32,),), ((1.0,),)), MultiScaleRoIAlign(["0"], 7, 2)
    model = FasterRCNN(body, CLASSES, rpn_anchor_generator=anchors, box_roi_pool=pool, **CANVAS)
    with pytest.raises(UserError, match="pyramid=False"):
        balance(model)
    assert all(v.isfinite() for v in losses(balance(model, pyramid=False)).values())


def test_sampling_of_retinanet_is_ignored_with_a_warning():
    with pytest.warns(UserWarning, match="focal loss uses all anchors"):
        model = balance(make("retinanet"))
    assert model.balanced == (False, True, True)
