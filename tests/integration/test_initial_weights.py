"""Training that starts from a model of other classes."""

import torch
from safetensors.torch import load_file

from libradet.api import create_model, load_model
from libradet.cli import main
from libradet.models.serialization import save_model


def test_randomly_initialized_class_layers_are_named(tiny_data, tiny, tmp_path, capsys):
    first = tmp_path / "first"
    assert main(tiny(tiny_data, first, "--max_steps", "1", "--num_val_images_logged", "0")) == 0
    config = load_model(first / "best.safetensors").config
    assert "random init" not in capsys.readouterr().out
    config.image.channels, config.image.std = "bgr", (1.0, 1.0, 1.0)
    save_model(create_model(config=config, class_names=["cat", "dog", "bird"]), tmp_path / "animals.safetensors")
    weights = ["--weights", str(tmp_path / "animals.safetensors")]
    assert main(tiny(tiny_data, tmp_path / "second", "--max_steps", "1", "--num_val_images_logged", "0", *weights)) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "random init roi.logits, roi.deltas: not loaded from" in said
    image = load_model(tmp_path / "second" / "best.safetensors").config.image
    assert (image.channels, image.std) == ("bgr", (1.0, 1.0, 1.0))
    (tmp_path / "animals.safetensors").unlink()
    assert main(["train", "--resume", str(tmp_path / "second"), "--max_steps", "2"]) == 0


def test_a_run_killed_before_its_first_checkpoint_restarts_from_its_weights(tiny_data, tiny, tmp_path):
    assert (
        main(tiny(tiny_data, tmp_path / "first", "--max_steps", "1", "--num_val_images_logged", "0", "--seed", "5"))
        == 0
    )
    weights = ["--weights", str(tmp_path / "first" / "best.safetensors")]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(tiny(tiny_data, whole, "--max_steps", "1", "--num_val_images_logged", "0", *weights)) == 0
    killed.mkdir()
    (killed / "config.yaml").write_bytes((whole / "config.yaml").read_bytes())
    assert main(["train", "--resume", str(killed)]) == 0
    expected, found = (load_file(folder / "best.safetensors") for folder in (whole, killed))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
