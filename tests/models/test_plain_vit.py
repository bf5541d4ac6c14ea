"""Plain ViTs as backbones: features at any size, patches of 14 pixels, freezing, layers, weights of files."""

from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F

from libradet.errors import UserError
from libradet.models.backbone import Backbone, layer_depths
from libradet.models.config import BackboneConfig
from libradet.models.load_pretrained import BackboneWeights
from libradet.models.plain_vit import describe_plain_vit, uses_simple_pyramid
from libradet.models.serialization import load_model, save_model
from tests.helpers.tiny_detectors import tiny_batch, tiny_detector, tiny_zoo_config

# A family each: ImageNet and MAE, DINOv2, DINOv3, SigLIP, EVA-02, DeiT III.
NAMES = [
    "vit_tiny_patch16_224",
    "vit_small_patch14_dinov2",
    "vit_small_patch16_dinov3",
    "vit_base_patch16_siglip_224",
    "eva02_tiny_patch14_224",
    "deit3_small_patch16_224",
]
create_model = timm.create_model


@pytest.fixture
def shallow(monkeypatch):
    """Models of two blocks."""
    monkeypatch.setattr(timm, "create_model", partial(create_model, depth=2))


def features_by_timm(backbone, images):
    """Tokens of the patches after the final norm, as timm's own whole model returns them."""
    model = backbone.body.model
    tokens = model.forward_features(images)[:, model.num_prefix_tokens :]
    height, width = images.shape[2] // 16, images.shape[3] // 16
    return tokens.transpose(1, 2).unflatten(2, (height, width))


@pytest.mark.parametrize("name", NAMES)
def test_one_feature_map_of_stride_16_at_any_size(name, shallow):
    backbone = Backbone(BackboneConfig(name)).eval()
    for size in ((64, 96), (160, 32)):
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            (features,) = backbone(images)
            assert features.shape == (2, *backbone.channels, size[0] // 16, size[1] // 16)
            torch.testing.assert_close(features, features_by_timm(backbone, images))
            torch.testing.assert_close(backbone(images[1:])[0], features[1:], rtol=1e-4, atol=1e-4)


def test_position_embeddings_are_those_of_the_model_at_its_size():
    backbone = Backbone(BackboneConfig("test_vit")).eval()
    fixed = create_model("test_vit", num_classes=0).eval()
    fixed.load_state_dict(backbone.body.model.state_dict())
    images = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        tokens = fixed.forward_features(images)[:, fixed.num_prefix_tokens :]
        torch.testing.assert_close(backbone(images)[0].flatten(2).transpose(1, 2), tokens)


def enlarge_patches(images, old, new):
    """Resize each patch on its own."""
    grid = images.shape[2] // old, images.shape[3] // old
    patches = F.unfold(images, old, stride=old).transpose(1, 2).reshape(-1, 3, old, old)
    patches = F.interpolate(patches, size=(new, new), mode="bicubic", antialias=True)
    columns = patches.reshape(len(images), -1, 3 * new * new).transpose(1, 2)
    return F.fold(columns, (grid[0] * new, grid[1] * new), new, stride=new)


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "eva02_tiny_patch14_224"])
def test_patches_of_14_pixels_are_resampled_to_16(name, shallow, tmp_path):
    """The model with its own patches, and ours on patches that are enlarged, compute the same."""
    original = timm.create_model(name, num_classes=0, dynamic_img_size=True).eval()
    backbone = Backbone(BackboneConfig(name), BackboneWeights(tmp_path / "w", original.state_dict())).eval()
    assert torch.equal(backbone.body.model.pos_embed, original.pos_embed)
    images = torch.randn(2, 3, 4 * 14, 6 * 14)
    with torch.no_grad():
        tokens = original.forward_features(images)[:, original.num_prefix_tokens :]
        (features,) = backbone(enlarge_patches(images, 14, 16))
    torch.testing.assert_close(features.flatten(2).transpose(1, 2), tokens, rtol=1e-3, atol=1e-3)


def test_weights_of_files_are_loaded_or_refused(tmp_path):
    whole = create_model("test_vit")
    backbone = Backbone(BackboneConfig("test_vit"), BackboneWeights(tmp_path / "w", whole.state_dict()))
    assert torch.equal(backbone.body.model.blocks[0].attn.qkv.weight, whole.blocks[0].attn.qkv.weight)
    assert "2 ignored (model.head.weight, model.head.bias)" in backbone.origin
    others = create_model("test_resnet").state_dict()
    with pytest.raises(UserError, match="not weights of the backbone test_vit"):
        Backbone(BackboneConfig("test_vit"), BackboneWeights(tmp_path / "w", others))


@pytest.mark.parametrize("name", ["vit_base_patch32_224", "vit_small_patch8_224"])
def test_other_patch_sizes_are_refused(name):
    assert describe_plain_vit(name) is not None
    assert not uses_simple_pyramid(name)
    with torch.device("meta"), pytest.raises(UserError, match="only 14 and 16 are supported"):
        Backbone(BackboneConfig(name))


@pytest.mark.parametrize("name", ["resnet50", "nonsense_net", "beit_base_patch16_224", "vit_base_r50_s16_224"])
def test_other_backbones_are_no_plain_vits(name):
    assert describe_plain_vit(name) is None


def saved_bytes(module, images):
    """Bytes that autograd keeps for the backward pass, parameters left out."""
    kept, held, own = {}, [], {p.untyped_storage().data_ptr() for p in module.parameters()}

    def keep(t):
        # Otherwise another tensor could be allocated at the same address.
        held.append(t)
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        features = module(images)
    return sum(size for pointer, size in kept.items() if pointer not in own), features


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_a_frozen_backbone_keeps_no_activations_and_its_weights(name):
    trained, frozen = Backbone(BackboneConfig(name)), Backbone(BackboneConfig(name, frozen=True))
    frozen.load_state_dict(trained.state_dict())
    images = torch.randn(2, 3, 64, 96)
    before = {key: t.clone() for key, t in frozen.state_dict().items()}
    assert saved_bytes(trained.train(), images)[0] > 0
    size, features = saved_bytes(frozen.train(), images)
    assert size == 0
    assert not any(f.requires_grad for f in features)
    assert not any(m.training for m in frozen.body.modules())
    trained.load_state_dict(before)
    for ours, theirs in zip(features, trained.eval()(images), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert all(torch.equal(before[key], t) for key, t in frozen.state_dict().items())


def test_a_detector_on_a_frozen_backbone_trains_the_rest():
    config = tiny_zoo_config("libra_faster_rcnn")
    config.backbone = BackboneConfig("test_resnet", frozen=True)
    model = tiny_detector(config)
    torch.stack(list(model(tiny_batch()).values())).sum().backward()
    for name, p in model.named_parameters():
        assert (p.grad is None) == name.startswith("backbone."), name


@pytest.mark.parametrize(
    ("freeze_at", "frozen"), [(0, 0), (1, 0), (2, 1), (3, 3), (4, 4), (5, 6)]
)  # of six blocks: quarters, rounded down
def test_stem_and_first_blocks_are_frozen(freeze_at, frozen):
    body = Backbone(BackboneConfig("test_vit", freeze_at=freeze_at)).body
    assert len(body.model.blocks) == 6
    for name, p in body.named_parameters():
        first = name.startswith(("model.patch_embed", "model.pos_embed", "model.cls_token", "model.reg_token"))
        inside = any(name.startswith(f"model.blocks.{i}.") for i in range(frozen))
        last = name.startswith("model.norm.") and freeze_at == 5
        assert p.requires_grad != ((first and freeze_at > 0) or inside or last), name


@pytest.mark.parametrize("name", ["test_vit", "vit_small_patch16_dinov3", "vit_small_patch16_rope_mixed_224"])
def test_layers_of_the_learning_rate_decay_are_those_of_vitdet(name):
    """Embeddings are layer 0, block i is layer i + 1, everything else is the last, in detectron2 as well."""
    with torch.device("meta"):
        backbone = Backbone(BackboneConfig(name))
    num_blocks = len(backbone.body.model.blocks)
    depths = layer_depths(backbone)
    assert depths.keys() == {name for name, _ in backbone.named_parameters()}
    for parameter, depth in depths.items():
        part = parameter.removeprefix("body.model.").split(".")
        if part[0] == "blocks":
            assert depth == num_blocks - int(part[1])
        elif part[0] in ("patch_embed", "pos_embed", "cls_token", "reg_token"):
            assert depth == num_blocks + 1
        else:
            assert depth in (0, 1), parameter


@pytest.mark.parametrize(
    ("detector", "backbone"),
    [
        ("libra_faster_rcnn", "test_vit"),
        ("libra_retinanet", "vit_small_patch16_dinov3"),
        ("faster_rcnn", "eva02_tiny_patch14_224"),
    ],
)
def test_a_detector_on_padded_images_trains_and_is_saved(detector, backbone, shallow, tmp_path):
    config = tiny_zoo_config(detector)
    config.backbone, config.pyramid.type, config.pyramid.norm = BackboneConfig(backbone), "simple", "layer"
    config.pyramid.extra_levels = "max_pool"
    model, batch = tiny_detector(config), tiny_batch(size=(96, 160))
    batch = batch._replace(sizes=torch.tensor([[96, 160], [70, 101]]))
    losses = model(batch)
    torch.stack(list(losses.values())).sum().backward()
    for part, p in model.named_parameters():
        assert p.grad is not None, part
        assert p.grad.isfinite().all(), part
    save_model(model.eval(), tmp_path / "model.safetensors")
    with torch.no_grad():
        detections, again = model(batch), load_model(tmp_path / "model.safetensors")(batch)
        alone = model(batch._replace(images=batch.images[1:], sizes=batch.sizes[1:]))
    assert detections.valid.any(1).all()
    for a, b in zip(detections, again, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    torch.testing.assert_close(alone.scores[0], detections.scores[1], rtol=0, atol=1e-4)
