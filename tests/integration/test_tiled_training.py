"""Training on tiles: equal to whole images where those are the tiles, resumed bit-exactly, validated like evaluate."""

import json

import pytest

from libradet.cli import main
from libradet.data.read import read
from tests.helpers.training_runs import assert_same, weights

SETTINGS = ("--ema", "0.9", "--max_epochs", "1", "--lr_milestones", "[]", "--warmup_steps", "0")
THINNED = ("--tile_min_area_ratio", "0.3", "--tile_empty_fraction", "0.5")
MIXED = ("--tiles", "96", "0.25", *THINNED, "--mosaic_prob", "0.5", "--mixup_prob", "0.3")


def trained(args):
    assert main(args) == 0


@pytest.fixture(scope="module")
def tiled(tiny_data, tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("tiled") / "run"
    trained(tiny(tiny_data, out, *SETTINGS, *MIXED, "--num_val_images_logged", "2"))
    return out


def test_tiles_of_whole_images_change_nothing(tiny_data, tiny, tmp_path):
    settings = (*SETTINGS, "--max_steps", "3")
    trained(tiny(tiny_data, tmp_path / "whole", *settings))
    trained(tiny(tiny_data, tmp_path / "tiles", *settings, "--tiles", "144", "0"))
    assert_same(weights(tmp_path / "tiles"), weights(tmp_path / "whole"))


def test_validation_is_that_of_evaluate(tiled, tiny_data, tmp_path):
    best = json.loads((tiled / "metrics.json").read_text())
    command = ["evaluate", str(tiled / "best.safetensors"), "--data", str(tiny_data), "--tiles", "96", "0.25"]
    assert main([*command, "--batch_size", "2", "--json", str(tmp_path / "metrics.json")]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    names = ("AP", "AP50", "APs", "AR100")
    assert [best[name] for name in names] == pytest.approx([metrics[name] for name in names], nan_ok=True)
    assert (tiled / "val_predictions.png").exists()


def test_resumed_within_an_epoch_with_a_cache_and_a_worker(tiled, tiny_data, tiny, tmp_path, capsys):
    out = tmp_path / "run"
    trained(tiny(tiny_data, out, *SETTINGS, *MIXED, "--max_steps", "5"))
    for option, value in (("--tile_min_area_ratio", "0.4"), ("--tile_empty_fraction", "1"), ("--tiles", "null")):
        assert main(["train", "--resume", str(out), option, value]) == 2
        assert f"was started with {option[2:]}" in capsys.readouterr().err
    trained(["train", "--resume", str(out), "--max_steps", "null", "--cache", "ram", "--num_workers", "1"])
    assert_same(weights(out), weights(tiled))


def test_what_is_not_trained_on_is_said(tiny_data, tiny, tmp_path, capsys):
    trained(tiny(tiny_data, tmp_path / "run", "--tiles", "64", "0.25", *THINNED, "--max_steps", "1"))
    said = " ".join(capsys.readouterr().out.split())
    images = read(tiny_data, "train")[0].images
    assert f"of 64 px with an overlap of 0.25 in {len(images)} images" in said
    assert "0.5 of them in each epoch" in said
    assert "parts below 0.3 of the object's area are background" in said
    assert "tiles decode the whole image each time" in said


@pytest.mark.parametrize(
    ("option", "message"),
    [(("64", "1"), "overlap 1"), (("0", "0.2"), "size 0"), (("64",), "size in pixels and an overlap")],
)
def test_tiles_are_checked(tiny_data, tiny, tmp_path, capsys, option, message):
    assert main(tiny(tiny_data, tmp_path / "run", "--tiles", *option)) == 2
    assert message in capsys.readouterr().err
