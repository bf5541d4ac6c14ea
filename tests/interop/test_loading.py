import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

import libradet
from libradet.cli import main
from libradet.data.transforms import prepare
from libradet.errors import UserError
from libradet.interop.loading import load_checkpoint
from libradet.interop.saving import save_as
from libradet.models.zoo import MODELS

MMDET = {
    "faster_rcnn_r50_fpn": "faster_rcnn",
    "faster_rcnn_r50_pafpn": "faster_rcnn",
    "libra_faster_rcnn_r50_fpn": "libra_faster_rcnn",
    "libra_faster_rcnn_x101_64x4d_fpn": "libra_faster_rcnn",
    "rpn_r50_fpn": "rpn",
    "retinanet_r50_fpn": "retinanet",
    "libra_retinanet_r50_fpn": "libra_retinanet",
    "cascade_rcnn_r50_fpn": "cascade_rcnn",
    "mask_rcnn_r50_fpn": "mask_rcnn",
}


def fill(tensors) -> dict[str, Tensor]:
    """Random values that keep activations in range."""
    return {name: fill_one(name, shape) for name, shape, _ in tensors}


def fill_one(name: str, shape) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(3)
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        return torch.rand(shape) + 0.5
    return torch.randn(shape) * (2 / max(1, int(np.prod(shape[1:])))) ** 0.5


def mmdet_file(shared_data: Path, name: str, out: Path, **meta) -> dict[str, Tensor]:
    path = shared_data.parent / "parity" / "mmdet_keys" / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    state = fill(json.loads(path.read_text())["tensors"])
    torch.save({"meta": {"mmdet_version": "3.3.0"} | meta, "state_dict": state}, out)
    return state


@pytest.mark.parametrize("name", MMDET)
def test_every_tensor_of_mmdetections_is_used_once(shared_data, tmp_path, name):
    if MMDET[name] not in MODELS:
        pytest.skip(f"{MMDET[name]} is not in the zoo")
    state = mmdet_file(shared_data, name, tmp_path / "x")
    loaded = load_checkpoint(tmp_path / "x")
    assert loaded.family == "mmdetection"
    assert loaded.model.config.model == MMDET[name]
    # Every value is somewhere, and as often: no two tensors are alike.
    ours = sorted(t.flatten().double().sum().item() for t in loaded.model.state_dict().values())
    assert ours == sorted(t.flatten().double().sum().item() for t in state.values())


def test_where_mmdetections_tensors_go(shared_data, tmp_path):
    state = mmdet_file(shared_data, "libra_faster_rcnn_r50_fpn", tmp_path / "x")
    model = libradet.load_model(tmp_path / "x")
    own = model.state_dict()
    for theirs, ours in {
        "backbone.conv1.weight": "backbone.body.conv1.conv.weight",
        "backbone.layer3.5.bn2.running_mean": "backbone.body.layer3.5.conv2.norm.running_mean",
        "backbone.layer2.0.downsample.1.bias": "backbone.body.layer2.0.downsample.0.norm.bias",
        "neck.0.fpn_convs.2.conv.bias": "pyramid.output.2.bias",
        "neck.1.refine.conv_out.conv.weight": "balance.refine.out.weight",
        "neck.1.refine.theta.conv.weight": "balance.refine.theta.weight",
        "rpn_head.rpn_reg.bias": "rpn.deltas.bias",
        "roi_head.bbox_head.shared_fcs.1.weight": "roi.fc2.weight",
        "roi_head.bbox_head.fc_reg.weight": "roi.deltas.weight",
    }.items():
        assert torch.equal(own[ours], state[theirs]), theirs
    assert model.class_names[:2] == ["person", "bicycle"]
    assert model.category_ids[-1] == 90
    assert model.divisor == 32
    align = model.config.roi.align
    assert (align.sampling_ratio, align.aligned) == (0, True)


def test_a_runners_checkpoint_is_a_detector(shared_data):
    path = shared_data.parent / "parity" / "checkpoints" / "runner_epoch.pth"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    model = libradet.load_model(path)
    assert model.config.model == "libra_faster_rcnn"
    assert model.config.pyramid.balanced.level == 2
    assert model.config.rpn.test_proposals.per_level == 1000
    assert len(model.class_names) == 80


SETTINGS = """
norm_cfg = dict(type='BN')
img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
model = dict(
    backbone=dict(type='ResNet', style='caffe', frozen_stages=0, norm_eval=False, norm_cfg=norm_cfg),
    rpn_head=dict(anchor_generator=dict(scales=[4], ratios=[0.5, 1.0, 2.0])),
    roi_head=dict(bbox_roi_extractor=dict(roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2))),
    test_cfg=dict(
        rpn=dict(nms_pre=300, max_per_img=200, nms=dict(type='nms', iou_threshold=0.6), min_bbox_size=1),
        rcnn=dict(score_thr=0.2, nms=dict(type='nms', iou_threshold=0.4), max_per_img=30)))
evil = __import__('os').system('false')
"""


def test_settings_beside_the_weights_count(shared_data, tmp_path):
    names = tuple(f"thing {i}" for i in range(80))
    mmdet_file(shared_data, "faster_rcnn_r50_fpn", tmp_path / "x", config=SETTINGS, CLASSES=names)
    config = libradet.load_model(tmp_path / "x").config
    assert config.class_names == names
    assert config.category_ids == ()
    assert (config.image.mean[0], config.image.std, config.image.channels) == (103.53, (1.0, 1.0, 1.0), "bgr")
    assert config.backbone.stride_in_1x1
    assert (config.backbone.freeze_at, config.backbone.frozen_norm) == (1, False)
    assert config.rpn.anchors.scales == (4.0,)
    assert config.roi.align.sampling_ratio == 2
    proposals = config.rpn.test_proposals
    assert (proposals.per_level, proposals.total, proposals.nms, proposals.min_size) == (300, 200, 0.6, 1.0)
    assert (config.detections.score, config.detections.nms, config.detections.total) == (0.2, 0.4, 30)


def test_mmdetection_1_has_background_first(shared_data, tmp_path):
    new = mmdet_file(shared_data, "libra_faster_rcnn_r50_fpn", tmp_path / "new")
    old = {}
    for name, t in new.items():
        if ".fc_cls." in name:
            t = torch.cat([t[-1:], t[:-1]])
        elif ".fc_reg." in name:
            t = torch.cat([torch.randn_like(t[:4]), t])
        old[name.replace("roi_head.", "")] = t
    torch.save({"meta": {}, "state_dict": old}, tmp_path / "old")
    a, b = (libradet.load_model(tmp_path / name) for name in ("new", "old"))
    assert all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())
    assert (b.config.rpn.anchors.offset, b.config.rpn.anchors.rounded) == (0.5, True)
    assert (b.config.roi.align.sampling_ratio, b.config.roi.align.aligned) == (2, False)


def test_what_does_not_fit_is_named(shared_data, tmp_path):
    state = mmdet_file(shared_data, "faster_rcnn_r50_fpn", tmp_path / "x")
    del state["rpn_head.rpn_cls.bias"]
    state["extra.weight"] = torch.ones(1)
    state["neck.fpn_convs.1.conv.bias"] = torch.ones(7)
    torch.save({"state_dict": state}, tmp_path / "x")
    with pytest.raises(UserError) as e:
        load_checkpoint(tmp_path / "x")
    assert "missing: rpn.logits.bias" in str(e.value)
    assert "surplus: extra.weight" in str(e.value)
    assert "misshapen: neck.fpn_convs.1.conv.bias [7] instead of [256]" in str(e.value)
    loaded = load_checkpoint(tmp_path / "x", allow_partial=True)
    assert loaded.missing == ["rpn.logits.bias"]
    assert torch.equal(loaded.model.rpn.deltas.bias, state["rpn_head.rpn_reg.bias"])


def test_strangers_are_refused(tmp_path):
    torch.save({"state_dict": {"encoder.weight": torch.ones(2)}}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth: not a detector of .*encoder\.weight"):
        libradet.load_model(tmp_path / "x.pth")


def shake(model: torch.nn.Module) -> None:
    """Scores and boxes of a fresh detector hardly differ; this one's do."""
    for name, t in model.state_dict().items():
        if name.endswith("running_mean"):
            t.copy_(torch.randn_like(t) * 0.1)
        elif name.endswith("running_var"):
            t.copy_(torch.rand_like(t) + 1.5)
    if not hasattr(model, "rpn"):
        for conv in model.head.modules():
            if isinstance(conv, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(conv.weight)
        torch.nn.init.constant_(model.head.classification_head.cls_logits.bias, -2)
        model.head.regression_head.bbox_reg.weight.data /= 4
        return
    torch.nn.init.normal_(model.rpn.head.cls_logits.weight, std=0.3)
    torch.nn.init.normal_(model.rpn.head.bbox_pred.weight, std=0.01)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    torch.nn.init.normal_(model.roi_heads.box_predictor.bbox_pred.weight, std=0.1)


# The second does not fill its canvas, whose sides are not multiples of the coarsest stride.
@pytest.mark.parametrize("size", [(128, 192), (90, 150)])
@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn"])
def test_torchvisions_detections(tmp_path, name, size):
    there = getattr(torchvision.models.detection, name)(
        weights=None, weights_backbone=None, num_classes=6, min_size=min(size), max_size=max(size)
    ).eval()
    shake(there)
    torch.save(there.state_dict(), tmp_path / "x.pth")
    model = libradet.load_model(tmp_path / "x.pth")
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = there([torch.from_numpy(picture).permute(2, 0, 1) / 255])[0]
        features = there.backbone(there.transform([torch.from_numpy(picture).permute(2, 0, 1) / 255])[0].tensors)
        ours = model.extract_features(prepare([picture], "original", model.divisor))
    for level, other in zip(ours, features.values(), strict=True):
        assert other.std() > 0.05
        torch.testing.assert_close(level, other, atol=1e-3, rtol=1e-3)
    found = model.predict(picture, threshold=0.0, size="original")
    assert len(found) > 10
    assert found.confidence.std() > 0.02
    assert found.class_id.tolist() == (expected["labels"] - int("rcnn" in name)).tolist()
    np.testing.assert_allclose(found.confidence, expected["scores"], atol=1e-4)
    np.testing.assert_allclose(found.xyxy, expected["boxes"], atol=1e-3)


def test_torchvisions_older_names(tmp_path):
    there = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    state = there.state_dict()
    old = {n.replace("blocks.0.0.", "blocks.0.").replace("head.conv.0.0.", "head.conv."): t for n, t in state.items()}
    assert old.keys() != state.keys()
    torch.save({"model": old, "epoch": 3}, tmp_path / "x.pth")
    model = libradet.load_model(tmp_path / "x.pth")
    assert torch.equal(model.rpn.convs[0].weight, state["rpn.head.conv.0.0.weight"])
    assert model.class_names[11] == "N/A"
    assert model.category_ids == list(range(1, 91))


def detectron2_state() -> dict[str, Tensor]:
    """A ResNet-50 Faster R-CNN of three classes under detectron2's names."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name, o, i, k):
        shapes[f"{name}.weight"] = (o, i, k, k)
        shapes.update({f"{name}.norm.{part}": (o,) for part in ("weight", "bias", "running_mean", "running_var")})

    def layer(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    conv("backbone.bottom_up.stem.conv1", 64, 3, 7)
    width = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = 64 * 2**stage
        for b in range(blocks):
            block = f"backbone.bottom_up.res{stage + 2}.{b}."
            if b == 0:
                conv(f"{block}shortcut", 4 * inner, width, 1)
            conv(f"{block}conv1", inner, width, 1)
            conv(f"{block}conv2", inner, inner, 3)
            conv(f"{block}conv3", 4 * inner, inner, 1)
            width = 4 * inner
        layer(f"backbone.fpn_lateral{stage + 2}", 256, width, 1, 1)
        layer(f"backbone.fpn_output{stage + 2}", 256, 256, 3, 3)
    layer("proposal_generator.rpn_head.conv", 256, 256, 3, 3)
    layer("proposal_generator.rpn_head.objectness_logits", 3, 256, 1, 1)
    layer("proposal_generator.rpn_head.anchor_deltas", 12, 256, 1, 1)
    layer("roi_heads.box_head.fc1", 1024, 12544)
    layer("roi_heads.box_head.fc2", 1024, 1024)
    layer("roi_heads.box_predictor.cls_score", 4, 1024)
    layer("roi_heads.box_predictor.bbox_pred", 12, 1024)
    return {name: fill_one(name, shape) for name, shape in shapes.items()}


def test_detectron2(tmp_path):
    state = detectron2_state()
    buffers = {"proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4)}
    torch.save({"model": state | buffers, "iteration": 5}, tmp_path / "x.pth")
    model = libradet.load_model(tmp_path / "x.pth")
    ours = sorted(t.flatten().double().sum().item() for n, t in model.state_dict().items() if "num_batches" not in n)
    assert ours == sorted(t.flatten().double().sum().item() for t in state.values())
    own = model.state_dict()
    shortcut = "backbone.body.layer2.0.downsample.0"
    assert torch.equal(own[f"{shortcut}.conv.weight"], state["backbone.bottom_up.res3.0.shortcut.weight"])
    assert torch.equal(own[f"{shortcut}.norm.bias"], state["backbone.bottom_up.res3.0.shortcut.norm.bias"])
    assert torch.equal(own["pyramid.lateral.3.weight"], state["backbone.fpn_lateral5.weight"])
    block = model.backbone.body.layer2[0]
    assert (block.conv1.conv.stride, block.conv2.conv.stride) == ((2, 2), (1, 1))
    assert (model.config.image.channels, model.config.image.mean) == ("bgr", (103.53, 116.28, 123.675))
    assert len(model.predict(np.zeros((64, 64, 3), np.uint8), size="original")) >= 0


def test_detectron2_sorts_anchors_by_size(tmp_path):
    state = {n: t for n, t in detectron2_state().items() if not n.startswith(("roi_heads.", "proposal_generator."))}
    state = {n: t for n, t in state.items() if not n.startswith(("backbone.fpn_lateral2", "backbone.fpn_output2"))}
    for part, last, rows in (("cls_subnet", "cls_score", 9 * 5), ("bbox_subnet", "bbox_pred", 9 * 4)):
        names = [f"head.{part}.{i}" for i in (0, 2, 4, 6)] + [f"head.{last}"]
        for name, out in zip(names, [256] * 4 + [rows], strict=True):
            state[f"{name}.weight"], state[f"{name}.bias"] = torch.randn(out, 256, 3, 3) * 0.02, torch.randn(out)
    for i, width in ((6, 2048), (7, 256)):
        state[f"backbone.top_block.p{i}.weight"] = torch.randn(256, width, 3, 3) * 0.01
        state[f"backbone.top_block.p{i}.bias"] = torch.randn(256)
    torch.save({"model": state}, tmp_path / "x.pth")
    model = libradet.load_model(tmp_path / "x.pth")
    assert model.config.num_classes == 5
    assert model.config.pyramid.extra_relu
    theirs, ours = state["head.cls_score.bias"].view(3, 3, 5), model.dense.logits.bias.view(3, 3, 5)
    assert all(torch.equal(ours[ratio, size], theirs[size, ratio]) for ratio in range(3) for size in range(3))


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn"])
def test_the_way_back_to_torchvision(tmp_path, name):
    make = getattr(torchvision.models.detection, name)
    there, again = (make(weights=None, weights_backbone=None, num_classes=4) for _ in range(2))
    torch.save(there.state_dict(), tmp_path / "x.pth")
    assert main(["convert", str(tmp_path / "x.pth"), str(tmp_path / "y.pth"), "--to", "torchvision"]) == 0
    again.load_state_dict(torch.load(tmp_path / "y.pth", weights_only=True), strict=True)
    unused = ("bbox_pred.", "mask_fcn_logits.")
    for n, t in there.state_dict().items():
        rows = 0 if not n.startswith("roi_heads.") or not any(u in n for u in unused) else len(t) // 4
        assert torch.equal(again.state_dict()[n][rows:], t[rows:]) if t.dim() else True, n


@pytest.mark.parametrize("name", MMDET)
def test_the_way_back_to_mmdetection(shared_data, tmp_path, name):
    state = mmdet_file(shared_data, name, tmp_path / "x")
    save_as(libradet.load_model(tmp_path / "x"), "mmdet", tmp_path / "y")
    back = torch.load(tmp_path / "y", weights_only=True)["state_dict"]
    assert back.keys() == state.keys()
    assert all(torch.equal(back[n], t) for n, t in state.items())


def test_convert(tmp_path, capsys, shared_data):
    state = mmdet_file(shared_data, "faster_rcnn_r50_fpn", tmp_path / "x")
    assert main(["convert", str(tmp_path / "x"), str(tmp_path / "y.safetensors")]) == 0
    a, b = (libradet.load_model(tmp_path / name) for name in ("x", "y.safetensors"))
    assert a.config == b.config
    assert all(torch.equal(t, b.state_dict()[n]) for n, t in a.state_dict().items())
    assert "faster_rcnn, resnet50, 80 classes, from mmdetection" in capsys.readouterr().out
    del state["rpn_head.rpn_cls.bias"]
    torch.save({"state_dict": state}, tmp_path / "x")
    assert main(["convert", str(tmp_path / "x"), str(tmp_path / "z.safetensors")]) == 2
    assert not (tmp_path / "z.safetensors").exists()
    assert main(["convert", str(tmp_path / "x"), str(tmp_path / "z.safetensors"), "--allow-partial"]) == 0
    assert "missing: rpn.logits.bias" in capsys.readouterr().out


def test_a_hostile_file_ends_in_one_line(tmp_path, capsys):
    (tmp_path / "x.pth").write_bytes(b"cos\nsystem\n(Vtouch " + bytes(tmp_path / "mark") + b"\ntR.")
    assert main(["convert", str(tmp_path / "x.pth"), str(tmp_path / "y.safetensors")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("libradet: error: ")
    assert "os.system" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "mark").exists()
