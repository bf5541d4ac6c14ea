import copy
import re

import huggingface_hub.constants
import pytest
import timm
import torch
from torch import nn

from libradet.errors import UserError
from libradet.models.backbone import Backbone
from libradet.models.config import BACKBONE_STRIDES, BackboneConfig
from libradet.models.load_pretrained import IMAGENET_TAGS
from libradet.models.ops.fuse_conv_bn import ConvNorm, pair_convs_with_norms

BACKBONES = ["resnet18", "resnet50", "resnet18d", "convnext_atto", "mobilenetv3_small_050", "regnetx_002", "dla34"]


def shake_norms(module: nn.Module) -> nn.Module:
    """Set statistics and parameters to values other than ones and zeros, as after training."""
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias, std=0.2)
            m.running_mean.normal_(std=0.2)
            m.running_var.uniform_(0.5, 2)
    return module


def statistics(module: nn.Module) -> list[torch.Tensor]:
    return [b.clone() for name, b in module.named_buffers() if "running" in name]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"groups": 4, "padding": 2, "dilation": 2}])
def test_fusing_changes_neither_values_nor_gradients(options, bias):
    conv = nn.Conv2d(8, 12, 3, bias=bias, **options).double()
    norm = shake_norms(nn.BatchNorm2d(12).double()).eval()
    x = torch.randn(2, 8, 9, 11, dtype=torch.float64, requires_grad=True)
    folded, plain = ConvNorm(conv, norm).eval()(x), norm(conv(x))
    torch.testing.assert_close(folded, plain)
    weight, inputs = torch.randn_like(plain), [x, *conv.parameters(), *norm.parameters()]
    for a, b in zip(*(torch.autograd.grad((y * weight).sum(), inputs) for y in (folded, plain)), strict=True):
        torch.testing.assert_close(a, b)


def test_norms_in_training_mode_are_not_fused():
    conv, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    plain, x = copy.deepcopy(norm), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(ConvNorm(conv, norm).train()(x), plain(conv(x)))
    torch.testing.assert_close(norm.running_mean, plain.running_mean)


@pytest.mark.parametrize("name", BACKBONES)
def test_pairing_keeps_every_feature(name):
    body = shake_norms(timm.create_model(name, features_only=True)).double().eval()
    paired = copy.deepcopy(body)
    pair_convs_with_norms(paired)
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        for a, b in zip(body(x), paired(x), strict=True):
            torch.testing.assert_close(a, b)
    if name.startswith("resnet"):
        assert sum(isinstance(m, ConvNorm) for m in paired.modules()) >= 20


def test_pairing_keeps_every_gradient():
    body = shake_norms(timm.create_model("resnet18", features_only=True)).double().eval()
    paired = copy.deepcopy(body)
    pair_convs_with_norms(paired)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    for m in (body, paired):
        sum(f.square().mean() for f in m(x)).backward()
    assert len(list(body.parameters())) == len(list(paired.parameters()))
    for name, p in body.named_parameters():
        parts = name.split(".")
        if "bn" in parts[-2]:
            twin = ".".join([*parts[:-2], parts[-2].replace("bn", "conv"), "norm", parts[-1]])
        elif "downsample" in parts:
            twin = ".".join([*parts[:-2], "0", "conv" if parts[-2] == "0" else "norm", parts[-1]])
        else:
            twin = ".".join([*parts[:-1], "conv", parts[-1]])
        torch.testing.assert_close(paired.get_parameter(twin).grad, p.grad)


def test_other_convolutions_are_not_changed():
    class Odd(nn.Sequential):
        pass

    layers = Odd(
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 1),
        nn.BatchNorm2d(4, affine=False),
        nn.Conv2d(4, 4, 1),
        nn.BatchNorm2d(4, track_running_stats=False),
    ).eval()
    x = torch.randn(2, 3, 8, 8)
    before = layers(x)
    pair_convs_with_norms(layers)
    torch.testing.assert_close(layers(x), before)


@pytest.mark.parametrize("name", BACKBONES)
def test_features_have_the_declared_strides_and_channels(name):
    backbone = Backbone(BackboneConfig(name)).eval()
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, 64, 96))
    assert [tuple(f.shape) for f in features] == [
        (1, c, 64 // s, 96 // s) for c, s in zip(backbone.channels, BACKBONE_STRIDES, strict=True)
    ]


def test_channels_last_features_are_permuted_even_where_height_equals_channels():
    """Swin returns [B, H, W, C]; at 384 px, H is 96 at stride 4, and so is C."""
    backbone = Backbone(BackboneConfig("swin_tiny_patch4_window7_224")).eval()
    x = torch.randn(1, 3, 384, 32)
    with torch.no_grad():
        features, raw = backbone(x), backbone.body(x)
    for f, r, stride in zip(features, raw, BACKBONE_STRIDES, strict=True):
        assert torch.equal(f, r.permute(0, 3, 1, 2))
        assert f.shape[2:] == (384 // stride, 32 // stride)


@pytest.mark.parametrize(
    ("name", "freeze_at", "frozen"),
    [
        ("resnet18", 0, ()),
        ("resnet18", 1, ("conv1.", "bn1.")),
        ("resnet18", 2, ("conv1.", "bn1.", "layer1.")),
        ("convnext_atto", 1, ("stem_",)),
        ("convnext_atto", 2, ("stem_", "stages_0.")),
        ("mobilenetv3_small_050", 1, ("conv_stem.", "bn1.")),
        ("mobilenetv3_small_050", 2, ("conv_stem.", "bn1.", "blocks.0.")),
        ("efficientnet_lite0", 1, ("conv_stem.", "bn1.", "blocks.0.")),
        ("efficientnet_lite0", 2, ("conv_stem.", "bn1.", "blocks.0.", "blocks.1.")),
        ("swin_tiny_patch4_window7_224", 1, ("patch_embed.",)),
        ("swin_tiny_patch4_window7_224", 2, ("patch_embed.", "layers_0.")),
        ("resnext101_64x4d", 2, ("conv1.", "bn1.", "layer1.")),
        ("dla34", 1, ("base_layer.", "level0.", "level1.")),
        ("dla34", 2, ("base_layer.", "level0.", "level1.", "level2.")),
    ],
)
def test_stem_and_first_stage_are_frozen(name, freeze_at, frozen):
    with torch.device("meta"):
        body = Backbone(BackboneConfig(name, freeze_at=freeze_at)).body
    for parameter, p in body.named_parameters():
        assert p.requires_grad != parameter.startswith(frozen or ("nothing",)), parameter


@pytest.mark.parametrize(
    ("name", "largest"),
    [
        *(("resnet18", 5), ("convnext_atto", 5), ("swin_tiny_patch4_window7_224", 5), ("dla34", 5), ("test_vit", 5)),
        *(("efficientnet_lite0", 7), ("mobilenetv3_small_050", 7)),  # all of their blocks, the first is in the stem
    ],
)
def test_freeze_at_beyond_the_last_stage_is_refused(name, largest):
    with torch.device("meta"):
        body = Backbone(BackboneConfig(name, freeze_at=largest)).body
        assert not any(p.requires_grad for p in body.parameters())
        body = Backbone(BackboneConfig(name, freeze_at=largest - 1)).body
        assert any(p.requires_grad for p in body.parameters())
        with pytest.raises(UserError, match=rf"freeze_at is {largest + 1}: {name} .* so it is at most {largest}$"):
            Backbone(BackboneConfig(name, freeze_at=largest + 1))


def test_frozen_parts_are_not_trained_or_updated():
    backbone = Backbone(BackboneConfig("resnet18", freeze_at=2))
    shake_norms(backbone.body)
    layers = dict(backbone.body.named_children())
    frozen, rest = [layers["conv1"], layers["layer1"]], [layers["layer2"], layers["layer3"], layers["layer4"]]
    before = [statistics(m) for m in frozen + rest]
    backbone.train()
    sum(f.square().mean() for f in backbone(torch.randn(2, 3, 64, 64))).backward()
    after = [statistics(m) for m in frozen + rest]
    for i, m in enumerate(frozen + rest):
        moved = [not torch.equal(a, b) for a, b in zip(before[i], after[i], strict=True)]
        assert not any(moved) if m in frozen else all(moved)
        assert all((p.grad is None) == (m in frozen) for p in m.parameters())


def test_frozen_norms_keep_their_statistics_and_learn_their_scale():
    backbone = Backbone(BackboneConfig("resnet18", frozen_norm=True))
    shake_norms(backbone.body)
    before = statistics(backbone)
    for mode in (False, True):
        backbone.train(mode)
        assert backbone.training == mode
    sum(f.square().mean() for f in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(backbone), strict=True))
    assert all(p.grad is not None for p in backbone.parameters())


def test_norms_train_when_nothing_is_frozen():
    backbone = Backbone(BackboneConfig("resnet18")).train()
    before = statistics(backbone)
    backbone(torch.randn(2, 3, 64, 64))
    assert not any(torch.equal(a, b) for a, b in zip(before, statistics(backbone), strict=True))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet1888", r"similar names: .*resnet\d+\b"),
        ("vit_tiny_patch16_22", r"similar names: .*\bvit_tiny_patch16_224\b"),
        ("nonsense_net", "resnet50"),
        ("beit_base_patch16_224", "no detector can be built on"),
        ("vit_base_patch32_224", "patch size 32: only 14 and 16"),
    ],
)
def test_unusable_backbones_are_refused(name, words):
    with pytest.raises(UserError, match=words) as e:
        Backbone(BackboneConfig(name))
    assert name in str(e.value)


def test_freezing_a_backbone_without_stages_is_refused():
    with pytest.raises(UserError, match="freeze_at"):
        Backbone(BackboneConfig("hrnet_w18_small", freeze_at=2))


@pytest.mark.parametrize("name", IMAGENET_TAGS)
def test_the_weights_that_papers_start_from_are_known(name):
    tag = IMAGENET_TAGS[name]
    assert timm.is_model_pretrained(tag)
    assert tag in timm.list_pretrained(f"{name}.*")


@pytest.mark.parametrize("name", ["resnet18.nope_in1k", "lcnet_035", "darknet17"])
def test_weights_that_do_not_exist(name):
    """timm would continue with random weights."""
    with pytest.raises(UserError, match=re.escape(name)):
        Backbone(BackboneConfig(name), pretrained=True)


def test_weights_that_cannot_be_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match="no model hub") as e:
        Backbone(BackboneConfig("resnet18"), pretrained=True)
    assert len(str(e.value).splitlines()) <= 2
