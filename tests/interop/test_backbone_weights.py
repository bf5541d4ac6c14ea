"""New detectors that start from the weights of a backbone."""

import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file

import libradet
from libradet.cli import main
from libradet.errors import UserError
from libradet.models.load_pretrained import pixel_statistics
from libradet.models.serialization import load_model, save_model
from libradet.training.options import parse_train


class Hostile:
    """Is executed by an unrestricted unpickler."""

    def __reduce__(self):
        return (print, ("executed",))


def state_of(name):
    torch.manual_seed(1)
    state = timm.create_model(name).state_dict()
    # Running statistics that no other model has.
    return {key: torch.rand_like(t) + 0.5 if key.endswith("running_var") else t for key, t in state.items()}


def created(path, backbone="resnet18"):
    narrow = {"pyramid": {"channels": 16}, "roi": {"fc_dim": 16}}
    return libradet.create_model("faster_rcnn", num_classes=2, backbone=backbone, weights=path, config=narrow)


@pytest.mark.parametrize(
    ("name", "wrapped"),
    [
        *[("resnet18", None), ("convnext_atto", None), ("tf_efficientnet_lite0", None)],
        *[("convnext_atto", "state_dict"), ("convnext_atto", "model_ema")],
    ],
)
def test_features_are_those_of_timm_with_these_weights(tmp_path, name, wrapped):
    state, path = state_of(name), tmp_path / "weights.pth"
    torch.save({wrapped: {f"module.{key}": value for key, value in state.items()}} if wrapped else state, path)
    ours = created(path, name).backbone.eval()
    whole = timm.create_model(name)
    whole.load_state_dict(state)
    torch.save(whole.state_dict(), tmp_path / "timm.pth")
    theirs = timm.create_model(
        name, features_only=True, pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "timm.pth")}
    ).eval()
    image = torch.rand(1, 3, 64, 64)
    for here, there in zip(ours(image), theirs(image)[-4:], strict=True):
        torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-3 * float(there.abs().max()))
    assert "ignored" in ours.origin


def test_used_and_unused_tensors_are_reported(tmp_path):
    save_file({**state_of("resnet18"), "extra.weight": torch.ones(2)}, tmp_path / "w.safetensors")
    model = created(tmp_path / "w.safetensors")
    assert model.backbone.origin.startswith("120 tensors of resnet18")
    assert "3 ignored (" in model.backbone.origin
    assert "extra.weight" in model.backbone.origin
    assert model.config.backbone.freeze_at == 2
    assert model.config.backbone.frozen_norm


@pytest.mark.parametrize("kind", ["architecture", "detector", "damaged", "hostile", "absent"])
def test_other_files_are_refused_by_name(tmp_path, capsys, kind):
    path = tmp_path / "weights.pth"
    state = {
        "architecture": state_of("resnet34") if kind == "architecture" else {},
        "detector": {"backbone.conv1.weight": torch.ones(1), "head.weight": torch.ones(1)},
    }
    if kind in state:
        torch.save(state[kind], path)
    elif kind == "damaged":
        path.write_bytes(b"PK\x03\x04 nothing else")
    elif kind == "hostile":
        path.write_bytes(pickle.dumps({"conv1.weight": Hostile()}))
    with pytest.raises(UserError, match=r"weights\.pth") as refused:
        created(path, "resnet50" if kind == "architecture" else "resnet18")
    assert "executed" not in capsys.readouterr().out
    assert len(str(refused.value).splitlines()) <= 2
    if kind == "architecture":
        assert "not weights of the backbone resnet50" in str(refused.value)


@pytest.mark.parametrize(
    ("backbone", "mean", "std"),
    [
        ("resnet18", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ("tf_efficientnet_lite0", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
        ("mobilenetv2_100", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ("mobilenet_edgetpu_v2_m", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    ],
)
def test_pixel_statistics_follow_the_weights(tmp_path, backbone, mean, std):
    """They are saved with the model; given statistics take precedence."""
    path = tmp_path / "w.safetensors"
    save_file(state_of(backbone), path)
    model = created(path, backbone)
    assert model.config.image.mean == mean
    assert model.config.image.std == std
    assert model.mean.flatten().tolist() == pytest.approx(mean)
    save_model(model, tmp_path / "model.safetensors")
    assert load_model(tmp_path / "model.safetensors").config.image == model.config.image
    options = ["--data", "somewhere", "--backbone", backbone, "--weights", str(path)]
    assert parse_train(options).detector.image.mean == mean
    assert parse_train([*options, "--detector.image.mean", "[1, 2, 3]"]).detector.image.mean == (1, 2, 3)


def test_default_pixel_statistics_without_weights():
    model = created(None, "tf_efficientnet_lite0")
    assert model.config.image == type(model.config.image)()
    assert pixel_statistics("no_such_model") is None


@pytest.mark.slow
def test_training_run_from_a_backbone(tmp_path, capsys):
    assert (
        main(["data", "synthesize", str(tmp_path / "data"), "--size", "144", "96", "--train", "4", "--val", "2"]) == 0
    )
    save_file(state_of("tf_efficientnet_lite0"), tmp_path / "w.safetensors")
    small = ["--detector.image.size", "[64, 96]", "--detector.pyramid.channels", "16", "--detector.roi.fc_dim", "16"]
    options = [
        "--backbone",
        "tf_efficientnet_lite0",
        "--weights",
        str(tmp_path / "w.safetensors"),
        "--num_val_images_logged",
        "0",
    ]
    run = [
        "train",
        "--data",
        str(tmp_path / "data"),
        "--output_dir",
        str(tmp_path / "run"),
        "--num_workers",
        "0",
        *options,
        *small,
    ]
    assert main([*run, "--max_epochs", "1", "--max_steps", "1", "--precision", "fp32", "--gradient_clip_val", "1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "288 tensors of tf_efficientnet_lite0" in said
    assert "Unexpected keys" not in said
    assert load_model(tmp_path / "run" / "best.safetensors").config.image.mean == (127.5, 127.5, 127.5)
    (tmp_path / "w.safetensors").unlink()
    assert main(["train", "--resume", str(tmp_path / "run"), "--max_steps", "2", "--max_epochs", "2"]) == 0
