"""Files and end of a run."""

import io
import json

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

import libradet
from libradet.cli import main
from libradet.errors import UserError
from libradet.evaluation.curves import read_metrics
from libradet.training.options import parse_train
from libradet.training.resume import read_checkpoint
from libradet.training.setup import setup_training
from libradet.training.summary import summarize_setup
from tests.helpers.training_runs import rows, tiny_config


@pytest.fixture(scope="module")
def folder(tiny_data, tiny, tmp_path_factory):
    """A whole run with averaged weights and images."""
    out = tmp_path_factory.mktemp("run") / "run"
    assert (
        main(
            tiny(
                tiny_data,
                out,
                "--num_val_images_logged",
                "2",
                "--ema",
                "0.9",
                "--check_val_every_n_epoch",
                "2",
                "--max_epochs",
                "3",
            )
        )
        == 0
    )
    return out


def test_files_of_a_run(folder):
    assert {p.name.split(".out")[0] for p in folder.iterdir()} == {
        *("config.yaml", "last.ckpt", "previous.ckpt", "best.safetensors", "metrics.csv", "metrics.json"),
        *("curves.png", "val_predictions.png", "val_predictions", "events"),
    }
    assert sorted(p.name for p in (folder / "val_predictions").iterdir()) == ["epoch_002.png", "epoch_003.png"]
    for path in (folder / "curves.png", folder / "val_predictions.png"):
        with Image.open(path) as image:
            assert min(image.size) > 300
    curves = read_metrics(folder / "metrics.csv")
    assert curves["loss"].steps.tolist() == list(range(1, 19))
    assert curves["AP"].steps.tolist() == [12, 18], "every second epoch, and the last one"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["AP"] == pytest.approx(curves["AP"].values.max(), abs=1e-7)


def test_config_is_written_resolved(folder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["lr"] == 0.0025
    assert config["warmup_steps"] == 1
    assert config["lr_milestones"] == [2.0, 2.75]
    assert config["precision"] == "fp32"
    assert config["detector"]["class_names"] == ["ball", "crate"]
    assert config["output_dir"] is None


def test_averaged_weights_are_saved(folder):
    best, last = load_file(folder / "best.safetensors"), read_checkpoint(folder / "last.ckpt")
    name = "roi.class_logits.weight" if "roi.class_logits.weight" in best else next(n for n in best if "roi" in n)
    if json.loads((folder / "metrics.json").read_text())["epoch"] == 3:
        assert torch.equal(best[name], last["state_dict"][f"detector.{name}"])
    assert not torch.equal(best[name], last["current_model_state"][f"detector.{name}"])


def test_a_finished_run_has_nothing_left_to_do(folder, capsys):
    before = {
        p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".ckpt", ".safetensors", ".json", ".csv")
    }
    assert main(["train", "--resume", str(folder)]) == 0
    assert all((folder / name).read_bytes() == content for name, content in before.items())
    said = " ".join(capsys.readouterr().out.split())
    assert "curves.png" in said
    assert "nothing is left to train: all 3 epochs are done; raise --max_epochs" in said
    assert "fp32 (as before)" in said


def test_what_a_resumed_run_keeps_is_said(folder):
    request = parse_train(["--resume", str(folder), "--max_epochs", "5", "--max_steps", "30"])
    setup = setup_training(request.config, request.detector, folder)
    assert not setup.is_finished
    schedule = rendered(summarize_setup(setup))
    assert "5 epochs of 6 batches, at most 30 steps" in schedule
    assert "warm-up and milestones as for 3 epochs; --warmup_steps and --lr_milestones change them" in schedule
    request = parse_train(["--resume", str(folder), "--max_epochs", "5", "--max_steps", "18"])
    setup = setup_training(request.config, request.detector, folder)
    assert "nothing is left to train: max_steps 18 is reached" in rendered(summarize_setup(setup))


def rendered(table) -> str:
    console = Console(width=1000, record=True, quiet=False, file=io.StringIO())
    console.print(table)
    return " ".join(console.export_text().split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "retinanet"}, "was started with model libra_faster_rcnn"),
        ({"detector": {"roi": {"fc_dim": 8}}}, "leave out model and detector"),
        ({"backbone": "resnet18"}, "was started with backbone test_resnet"),
        ({"output_dir": "elsewhere"}, "--output_dir elsewhere"),
        ({"data": "nowhere"}, "nowhere"),
    ],
)
def test_resuming_from_python_drops_no_argument(folder, arguments, message):
    with pytest.raises(UserError, match=message):
        libradet.train(resume=folder, **arguments)


def test_a_detector_as_in_a_file(tiny_data, tmp_path):
    with pytest.raises(UserError, match=r"did you mean detector\.roi\.fc_dim"):
        libradet.train("faster_rcnn", tiny_data, detector={"roi": {"fc_dims": 8}})
    model = libradet.create_model("faster_rcnn", 2, backbone="test_resnet", config={"roi": {"fc_dim": 8}})
    assert model.config.num_classes == 2
    assert model.config.roi is not None
    assert (model.config.roi.fc_dim, model.config.backbone.name) == (8, "test_resnet")
    for name, value in {"detector": {"roi": {"fc_dim": 8}}, "backbone": "resnet18", "weights": "imagenet"}.items():
        with pytest.raises(UserError, match=f"model is a built detector: leave out {name},"):
            libradet.train(model, tiny_data, **{name: value})
    for name, value in {"model": "rpn", "backbone": "resnet18"}.items():
        with pytest.raises(UserError, match=f"complete configuration of .*: leave out {name}='{value}'"):
            libradet.train(data=tiny_data, detector=model.config, **{name: value})


def test_a_missed_validation_is_run_when_resumed(folder, tmp_path):
    whole = (folder / "metrics.csv").read_text()
    metrics = json.loads((folder / "metrics.json").read_text())
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("config.yaml", "last.ckpt") if metrics["epoch"] == 3 else ("config.yaml", "last.ckpt", "metrics.json"):
        (copy / name).write_bytes((folder / name).read_bytes())
    (copy / "metrics.csv").write_text("".join(whole.splitlines(keepends=True)[:-1]))
    assert main(["train", "--resume", str(copy)]) == 0
    assert (copy / "metrics.csv").read_text() == whole
    if metrics["epoch"] == 3:
        made_up, best = (load_file(f / "best.safetensors") for f in (copy, folder))
        assert all(torch.equal(made_up[name], value) for name, value in best.items())


@pytest.mark.slow
def test_a_finished_run_can_be_extended(folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("config.yaml", "last.ckpt", "metrics.csv", "best.safetensors", "metrics.json"):
        (copy / name).write_bytes((folder / name).read_bytes())
    assert main(["train", "--resume", str(copy), "--max_epochs", "4"]) == 0
    assert rows(copy) == [*rows(folder), *(str(step) for step in range(19, 25)), "24"]


def test_without_a_validation_split_the_latest_weights_are_kept(tiny_data, tiny, tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    (data / "images").symlink_to(tiny_data / "images")
    (data / "train.json").write_bytes((tiny_data / "train.json").read_bytes())
    assert main(tiny(data, out, "--max_epochs", "1")) == 0
    assert "nothing is validated" in " ".join(capsys.readouterr().out.split())
    best, last = load_file(out / "best.safetensors"), read_checkpoint(out / "last.ckpt")["state_dict"]
    assert all(torch.equal(value, last[f"detector.{name}"]) for name, value in best.items())
    assert not (out / "metrics.json").exists()


def test_a_loss_that_is_not_finite_is_reported_with_images_and_terms(tiny_data, tiny, tmp_path, capsys):
    out = tmp_path / "run"
    assert (
        main(
            tiny(
                tiny_data,
                out,
                "--lr",
                "1e12",
                "--gradient_clip_val",
                "null",
                "--warmup_steps",
                "0",
                "--save_every_n_steps",
                "1",
            )
        )
        == 2
    )
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 2
    assert "train_0" in said
    assert "rpn_class" in said
    assert "nan" in said or "inf" in said


def test_images_that_do_not_fill_a_batch_are_repeated(tiny_data, tiny, tmp_path):
    out = tmp_path / "run"
    assert main(tiny(tiny_data, out, "--batch_size", "32", "--max_epochs", "1")) == 0
    assert rows(out) == ["1", "1"]


def test_train_from_python(tiny_data, tmp_path):
    model = libradet.create_model(config=tiny_config(), class_names=["ball", "crate"])
    settings = {
        "max_epochs": 1,
        "max_steps": 2,
        "num_workers": 0,
        "num_val_images_logged": 0,
        "batch_size": 1,
        "precision": "fp32",
    }
    result = libradet.train(model, tiny_data, output_dir=str(tmp_path / "run"), **settings)
    assert result.metrics is not None
    again = libradet.evaluate(result.weights, tiny_data, num_workers=0, batch_size=1, progress=False)
    assert again["AP"] == result.metrics["AP"]
    assert libradet.load_model(result.weights).class_names == ["ball", "crate"]
    with pytest.raises(UserError, match="epochs"):
        libradet.train(model, tiny_data, epoch=3)
    with pytest.raises(UserError, match="ball"):
        libradet.train(libradet.create_model("faster_rcnn", backbone="test_resnet"), tiny_data, **settings)
