"""Checkpoints of mmdetection, in and out; what holds for those of all toolboxes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import libradet
from libradet.cli import main
from libradet.errors import UserError
from libradet.interop.loading import load_checkpoint
from libradet.interop.saving import WRITABLE_FORMATS, save_checkpoint_as, to_foreign_state_dict
from libradet.models.zoo import make_config

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
    """Return random values that differ between rows and tensors. Values of a row are equal, which keeps files small."""
    return {name: fill_one(name, shape) for name, shape, _ in tensors}


def fill_one(name: str, shape) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(3)
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        return torch.rand(shape) + 0.5
    rows = torch.randn(shape[0], *[1] * (len(shape) - 1))
    return (rows / max(1, int(np.prod(shape[1:]))) ** 0.5).expand(*shape)


def fingerprint(t: Tensor) -> float:
    """Return a number that depends on every row."""
    rows = t.double().reshape(len(t), -1)[:, 0] if t.dim() else t.double()[None]
    return float(rows @ torch.arange(1, len(rows) + 1, dtype=torch.float64))


def mmdet_file(shared_data: Path, name: str, out: Path, **meta) -> dict[str, Tensor]:
    path = shared_data.parent / "parity" / "mmdet_keys" / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    state = fill(json.loads(path.read_text())["tensors"])
    torch.save({"meta": {"mmdet_version": "3.3.0"} | meta, "state_dict": state}, out)
    return state


@pytest.mark.parametrize("name", MMDET)
def test_mmdetection_round_trip_uses_every_tensor_once(shared_data, tmp_path, name):
    state = mmdet_file(shared_data, name, tmp_path / "x")
    loaded = load_checkpoint(tmp_path / "x")
    assert loaded.source == "mmdetection"
    assert loaded.model.config.model == MMDET[name]
    # Every tensor is used once: no two are equal.
    ours = sorted(fingerprint(t) for t in loaded.model.state_dict().values())
    assert ours == sorted(fingerprint(t) for t in state.values())
    back = to_foreign_state_dict(loaded.model, "mmdet")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[n], t) for n, t in state.items())


def test_mmdetection_key_map(shared_data, tmp_path):
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
    assert model.size_divisible == 32
    align = model.config.roi.align
    assert (align.sampling_ratio, align.aligned) == (0, True)


def test_checkpoint_of_mmengine_runner(shared_data):
    path = shared_data.parent / "parity" / "checkpoints" / "runner_epoch.pth"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    model = libradet.load_model(path)
    assert model.config.model == "libra_faster_rcnn"
    assert model.config.pyramid.balanced.level == 2
    assert model.config.rpn.test_proposals.pre_nms_top_n == 1000
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


def test_config_in_the_checkpoint_is_used(shared_data, tmp_path):
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
    assert (proposals.pre_nms_top_n, proposals.post_nms_top_n, proposals.nms_thresh, proposals.min_size) == (
        300,
        200,
        0.6,
        1.0,
    )
    assert (config.detections.score_thresh, config.detections.nms_thresh, config.detections.detections_per_img) == (
        0.2,
        0.4,
        30,
    )


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


def test_mismatching_tensors_are_listed(shared_data, tmp_path):
    state = mmdet_file(shared_data, "faster_rcnn_r50_fpn", tmp_path / "x")
    del state["rpn_head.rpn_cls.bias"]
    state["extra.weight"] = torch.ones(1)
    state["neck.fpn_convs.1.conv.bias"] = torch.ones(7)
    torch.save({"state_dict": state}, tmp_path / "x")
    with pytest.raises(UserError) as e:
        load_checkpoint(tmp_path / "x")
    assert "missing: rpn.logits.bias" in str(e.value)
    assert "unexpected: extra.weight" in str(e.value)
    assert "mismatched: neck.fpn_convs.1.conv.bias [7] instead of [256]" in str(e.value)
    loaded = load_checkpoint(tmp_path / "x", allow_partial=True)
    assert loaded.missing == ["rpn.logits.bias"]
    assert torch.equal(loaded.model.rpn.deltas.bias, state["rpn_head.rpn_reg.bias"])


def test_unknown_formats_are_refused(tmp_path):
    torch.save({"state_dict": {"encoder.weight": torch.ones(2)}}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth: not a detector of .*encoder\.weight"):
        libradet.load_model(tmp_path / "x.pth")


def test_saved_mmdetection_checkpoint(shared_data, tmp_path):
    state = mmdet_file(shared_data, "rpn_r50_fpn", tmp_path / "x")
    save_checkpoint_as(libradet.load_model(tmp_path / "x"), "mmdet", tmp_path / "y")
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
    assert main(["convert", str(tmp_path / "x"), str(tmp_path / "z.safetensors"), "--allow_partial"]) == 0
    assert "missing: rpn.logits.bias" in capsys.readouterr().out


def test_hostile_file_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "x.pth").write_bytes(b"cos\nsystem\n(Vtouch " + bytes(tmp_path / "mark") + b"\ntR.")
    assert main(["convert", str(tmp_path / "x.pth"), str(tmp_path / "y.safetensors")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("libradet: error: ")
    assert "os.system" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "mark").exists()


D2 = ("backbone.bottom_up.stem.conv1", "backbone.fpn_lateral2", "proposal_generator.rpn_head.anchor_deltas")


@pytest.mark.parametrize("family", ["mmdet", "torchvision", "detectron2"])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 3, 1, 1), (2, 2, 2, 2), (3, 3)])
def test_shapes_that_do_not_form_a_detector(tmp_path, family, shape):
    known = WRITABLE_FORMATS.get(family)
    names = [there for there, _ in known.layout(None, make_config("faster_rcnn", 3)).key_map] if known else D2
    torch.save({f"{name}.weight": torch.zeros(shape) for name in names}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth: (this|the tensors of this) .* checkpoint"):
        load_checkpoint(tmp_path / "x.pth")
