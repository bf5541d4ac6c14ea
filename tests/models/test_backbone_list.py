"""The listed backbones are those that detectors can be built on."""

import pytest
import timm
import torch

from libradet.cli import main
from libradet.errors import UserError
from libradet.models import backbone_body
from libradet.models.backbone import Backbone
from libradet.models.backbone_list import FAMILIES, is_exception, list_backbones
from libradet.models.config import BackboneConfig
from libradet.models.plain_vit import MODULES


def features_fit(name):
    """Whether features have the size that their stride says, at two sizes."""
    try:
        with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
            patch.setattr(backbone_body, "_check_is_listed", lambda name: None)
            backbone = Backbone(BackboneConfig(name))
            for height, width in ((96, 160), (224, 256)):
                features = backbone(torch.empty(2, 3, height, width))
                expected = [(height // stride, width // stride) for stride in backbone.strides]
                if [tuple(f.shape[2:]) for f in features] != expected:
                    return False
    except (UserError, RuntimeError, AssertionError, ValueError, TypeError):
        return False
    return True


@pytest.mark.parametrize(
    ("listed", "others"),
    [
        ("vit_small_patch14_dinov2", "vit_base_patch32_224"),
        ("vit_small_patch16_dinov3", "vit_small_patch8_224"),
        ("eva02_tiny_patch14_224", "beit_base_patch16_224"),
        ("vit_base_patch16_siglip_224", "vit_base_r50_s16_224"),
        ("deit3_small_patch16_224", "vit_relpos_small_patch16_224"),
        ("convnext_tiny", "convmixer_768_32"),
        ("swinv2_tiny_window8_256", "levit_128s"),
        ("cspdarknet53", "sedarknet21"),
        ("resnet50", "botnet26t_256"),
        ("gcresnet33ts", "bat_resnext26ts"),
        ("mobilevit_xxs", "mobilevitv2_050"),
    ],
)
def test_listed_backbones_fit_and_others_do_not(listed, others):
    assert list_backbones(listed) == [listed]
    assert list_backbones(others) == []


def test_names_of_weights_are_listed_where_no_model_has_such_a_name():
    assert "convnext_tiny.dinov3_lvd1689m" in list_backbones("convnext*dinov3*")
    assert list_backbones("vit_base_patch16_224.m*") == ["vit_base_patch16_224.mae"]
    assert list_backbones("levit_128s.*") == []


@pytest.mark.parametrize(
    "name",
    ["vit_relpos_small_patch16_224", "botnet26t_256", "mobilevitv2_050", "convnext_atto", "swinv2_tiny_window8_256"],
)
def test_the_list_agrees_with_the_features(name):
    assert features_fit(name) == bool(list_backbones(name))


def test_the_command_lists_only_those(capsys):
    assert main(["models", "--backbones", "vit_*_dinov3"]) == 0
    listed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("vit_")]
    assert listed == timm.list_models("vit_*_dinov3")
    assert main(["models", "--backbones", "levit*"]) == 2
    printed = capsys.readouterr()
    assert "no timm model of such a name fits a detector" in printed.err
    assert not printed.out


@pytest.mark.parametrize(
    ("name", "similar"),
    [
        ("bat_resnext26ts", "resnext26ts"),
        ("bat_resnext26ts.ch_in1k", "resnext26ts"),
        ("levit_128s", r"\w+"),
        ("mobilevitv2_050", "mobilevit_"),
        ("vit_relpos_small_patch16_224", "vit_small_patch16_224"),
    ],
)
def test_others_are_refused_with_similar_names_that_are_listed(name, similar):
    with pytest.raises(UserError, match=rf"{name!r} is a timm model that no detector .* fit: .*{similar}") as error:
        Backbone(BackboneConfig(name))
    message = str(error.value)
    assert "\n" not in message
    names = message.split("fit: ")[1].split(" (all")[0].split(", ")
    assert all(list_backbones(listed) == [listed] for listed in names)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(set(timm.list_modules()) - set(MODULES)))
def test_every_family(family):
    """The first and the last model by name."""
    names = [name for name in timm.list_models(module=family) if not is_exception(name)]
    for name in {names[0], names[-1]} if names else ():
        assert features_fit(name) == (family in FAMILIES), name
