"""Checkpoints with the prefixes of wrappers, and with a moving average beside the trained weights."""

import pytest
import timm
import torch

import libradet
from libradet.cli import main
from libradet.errors import UserError
from libradet.interop.loading import LoadedCheckpoint, load_checkpoint, resolve_init_weights, summarize_mismatches
from libradet.interop.saving import to_foreign_state_dict
from libradet.models.load_pretrained import BackboneWeights
from tests.helpers.detectron2_state import detectron2_state

PREFIXES = ["model.", "module.", "_orig_mod.", "net.", "module._orig_mod.model.", "lightning.student.model."]
NAME = "backbone.conv1.weight"


@pytest.fixture(scope="module")
def mmdet_state():
    torch.manual_seed(0)
    return to_foreign_state_dict(libradet.create_model("retinanet", num_classes=2, backbone="resnet18"), "mmdet")


def conv1(model) -> torch.Tensor:
    return next(t for name, t in model.state_dict().items() if name.endswith("body.conv1.conv.weight"))


def saved(path, content):
    torch.save(content, path)
    return path


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_common_prefix_of_a_detector_is_removed(tmp_path, mmdet_state, prefix):
    path = saved(tmp_path / "x.pth", {"state_dict": {f"{prefix}{name}": t for name, t in mmdet_state.items()}})
    loaded = load_checkpoint(path)
    assert loaded.source == "mmdetection"
    assert torch.equal(conv1(loaded.model), mmdet_state[NAME])


@pytest.mark.parametrize("prefix", ["model.", "module._orig_mod.model."])
@pytest.mark.parametrize("toolbox", ["torchvision", "detectron2"])
def test_prefixes_of_other_toolboxes(tmp_path, toolbox, prefix):
    if toolbox == "torchvision":
        model = libradet.create_model("faster_rcnn", num_classes=2, backbone="resnet18")
        state = to_foreign_state_dict(model, toolbox)
    else:
        state = detectron2_state(channels=8, fc_dim=8)
    loaded = load_checkpoint(saved(tmp_path / "x", {f"{prefix}{name}": t for name, t in state.items()}))
    assert loaded.source == toolbox


@pytest.mark.parametrize("prefix", ["", "model.", "module._orig_mod.net."])
def test_a_prefix_of_a_backbone_is_removed(tmp_path, prefix):
    state = timm.create_model("resnet18").state_dict()
    path = saved(tmp_path / "x", {f"{prefix}{name}": t for name, t in state.items()})
    weights, _ = resolve_init_weights(path)
    assert isinstance(weights, BackboneWeights)
    assert list(weights.tensors) == list(state)


def test_names_of_compiled_parts(tmp_path, mmdet_state):
    state = {name.replace("backbone.", "backbone._orig_mod."): t for name, t in mmdet_state.items()}
    assert load_checkpoint(saved(tmp_path / "x", state)).source == "mmdetection"


def averaged_of(state):
    return {"n_averaged": torch.tensor(3)} | {f"module.{name}": t + 1 for name, t in state.items()}


@pytest.mark.parametrize(
    ("keys", "use_ema", "is_average"),
    [
        (("model", "model_ema"), None, True),  # torchvision's references test the average
        (("model", "model_ema"), False, False),
        (("state_dict", "state_dict_ema"), None, True),
        (("state_dict", "ema_state_dict"), True, True),
    ],
)
def test_averages_beside_trained_weights(tmp_path, mmdet_state, keys, use_ema, is_average):
    content = {keys[0]: mmdet_state, keys[1]: averaged_of(mmdet_state)}
    loaded = load_checkpoint(saved(tmp_path / "x", content), use_ema=use_ema)
    assert torch.equal(conv1(loaded.model), mmdet_state[NAME] + (1 if is_average else 0))
    assert f"its {keys[is_average]!r}" in loaded.notes[0]
    assert keys[not is_average] in loaded.notes[0]


def test_trained_weights_are_the_default_of_files_like_those_of_timm(tmp_path, mmdet_state):
    content = {"state_dict": mmdet_state, "state_dict_ema": {name: t + 1 for name, t in mmdet_state.items()}}
    path = saved(tmp_path / "x", content)
    with pytest.warns(UserWarning, match="use_ema=True"):
        assert torch.equal(conv1(libradet.load_model(path)), mmdet_state[NAME])
    assert torch.equal(conv1(load_checkpoint(path, use_ema=True).model), mmdet_state[NAME] + 1)


def test_mmengine_stores_the_average_as_state_dict(tmp_path, mmdet_state):
    trained = {"steps": torch.tensor(5)} | {f"module.{name}": t - 1 for name, t in mmdet_state.items()}
    content = {"meta": {"mmengine_version": "0.10.7"}, "state_dict": mmdet_state, "ema_state_dict": trained}
    path = saved(tmp_path / "x", content)
    for use_ema in (None, True):
        assert torch.equal(conv1(load_checkpoint(path, use_ema=use_ema).model), mmdet_state[NAME])
    assert torch.equal(conv1(load_checkpoint(path, use_ema=False).model), mmdet_state[NAME] - 1)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_buffers_of_mmcv_are_left_out_with_a_note(tmp_path, mmdet_state, prefix, capsys):
    copies = {f"ema_{name.replace('.', '_')}": t - 1 for name, t in mmdet_state.items()}
    state = {f"{prefix}{name}": t for name, t in (mmdet_state | copies).items()}
    path = saved(tmp_path / "x", {"meta": {"mmdet_version": "2.28.0"}, "state_dict": state})
    assert main(["convert", str(path), str(tmp_path / "out.safetensors")]) == 0
    assert f"its {len(copies)} copies ema_... of weights" in capsys.readouterr().out
    assert torch.equal(conv1(libradet.load_model(tmp_path / "out.safetensors")), mmdet_state[NAME])
    assert torch.equal(conv1(load_checkpoint(path, use_ema=False).model), mmdet_state[NAME] - 1)


def test_a_choice_needs_two_sets_of_weights(tmp_path, mmdet_state):
    path = saved(tmp_path / "x", mmdet_state)
    assert load_checkpoint(path).notes == ()
    with pytest.raises(UserError, match="one set of weights"):
        load_checkpoint(path, use_ema=True)


def test_the_fork_of_mmdetection_that_is_maintained(tmp_path, mmdet_state):
    # Runner.save_checkpoint of onedl-mmengine with onedl-mmdetection 3.5.1: the names of mmdetection 3.
    meta = {
        "epoch": 12,
        "iter": 100,
        "cfg": "model = dict(type='RetinaNet')",
        "seed": 1,
        "experiment_name": "x_20260101",
        "time": "20260101_000000",
        "mmengine_version": "0.11.0",
        "dataset_meta": {"classes": ("cat", "dog"), "palette": [(1, 2, 3), (4, 5, 6)]},
    }
    loaded = load_checkpoint(saved(tmp_path / "x", {"meta": meta, "state_dict": mmdet_state, "message_hub": {}}))
    assert loaded.source == "mmdetection"
    assert loaded.model.class_names == ["cat", "dog"]


def test_lists_of_tensors_are_short():
    names = [f"layer{i}.weight" for i in range(300)]
    loaded = LoadedCheckpoint(torch.nn.Identity(), "x", [], names, [])  # pyrefly: ignore
    assert summarize_mismatches(loaded).endswith("layer4.weight and 295 more")
