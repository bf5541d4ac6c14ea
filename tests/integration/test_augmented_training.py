"""A run with all options for small data resumes bit-exactly, and is refused with other options."""

import os
import signal
import threading

import pytest
import torch
import yaml
from torchvision.transforms import v2

import libradet
from libradet.cli import main
from libradet.data.proposals.proposal_file import ImageProposals, write_proposals
from libradet.data.read import read
from libradet.errors import UserError
from libradet.evaluation.curves import read_metrics
from libradet.training.optim import cosine_factor
from libradet.training.resume import read_checkpoint
from tests.helpers.launching import wait_for
from tests.helpers.training_runs import assert_same, rows, tiny_config, weights

SWITCHES = (
    *("--optimizer", "adamw", "--layer_decay", "0.7", "--lr_schedule", "cosine", "--scale_jitter", "[0.5, 1.5]"),
    *(
        "--mosaic_prob",
        "0.5",
        "--copy_paste_prob",
        "0.5",
        "--color_jitter",
        "0.4",
        "--no_aug_epochs",
        "1",
        "--ema",
        "0.9",
    ),
    *("--vflip_prob", "0.5", "--rotate90_prob", "0.3", "--mixup_prob", "0.3", "--gaussian_blur", "1"),
    *("--gaussian_noise", "0.05", "--augmentations", "[{class_path: RandomRotation, init_args: {degrees: 10}}]"),
    *("--save_every_n_steps", "1", "--max_epochs", "2", "--check_val_every_n_epoch", "2", "--decay_norm_bias", "false"),
)


def state(folder):
    """Weights, averaged weights, and all that AdamW remembers."""
    checkpoint = read_checkpoint(folder / "last.ckpt")
    moments = [t for one in checkpoint["optimizer_states"][0]["state"].values() for t in one.values()]
    return [*checkpoint["state_dict"].values(), *checkpoint["current_model_state"].values(), *moments]


@pytest.fixture(scope="module")
def untouched(tiny_data, tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("recipes") / "run"
    assert main(tiny(tiny_data, out, *SWITCHES)) == 0
    return out


def test_stopped_and_resumed_with_a_cache_and_a_worker(untouched, tiny_data, tiny, tmp_path, capfd):
    out = tmp_path / "run"

    def stop():
        wait_for(lambda: len(rows(out)) >= 4)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    assert main(tiny(tiny_data, out, *SWITCHES)) == 143
    thread.join()
    assert 4 <= read_checkpoint(out / "last.ckpt")["libradet"]["batches_done"] < 12
    other = "[{class_path: RandomRotation, init_args: {degrees: 11}}]"
    for option, value in (
        *(("--scale_jitter", "null"), ("--optimizer", "sgd"), ("--vflip_prob", "0"), ("--augmentations", other)),
    ):
        capfd.readouterr()
        assert main(["train", "--resume", str(out), option, value]) == 2
        said = capfd.readouterr().err
        assert f"the run was started with {option[2:]} " in said
        assert len(said.strip().splitlines()) <= 2
    assert main(["train", "--resume", str(out), "--cache", "ram", "--num_workers", "1"]) == 0
    said = " ".join(capfd.readouterr().out.split())
    assert "AdamW" in said
    assert "cosine to 0.01 times lr after 12 steps" in said
    assert "flip 0.5, scale jitter 0.5 to 1.5, mosaic 0.5 until epoch 1" in said
    assert "vflip 0.5, rotate90 0.3, color jitter 0.4, gaussian blur 1, gaussian noise 0.05, RandomRotation" in said
    a, b = state(out), state(untouched)
    assert len(a) == len(b)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert rows(out) == rows(untouched)


def test_rates_in_the_log_follow_the_cosine(untouched):
    rates = read_metrics(untouched / "metrics.csv")["lr"].values
    config = yaml.safe_load((untouched / "config.yaml").read_text())
    assert config["lr"] == pytest.approx(1e-4 * (2 / 16) ** 0.5)
    assert config["weight_decay"] == 0.05
    # The row of a step has the rate of the next one. A tenth of the run, one step, is warm-up.
    expected = [config["lr"] * cosine_factor(step, 1, 1 / 3, 12, 0.01) for step in range(1, 13)]
    assert rates.tolist() == pytest.approx(expected)


def test_mixing_is_refused_with_precomputed_proposals(tiny_data, tiny, tmp_path, capfd):
    dataset, _ = read(tiny_data, "train")
    entries = [ImageProposals(p.id, p.path.name, p.width, p.height, p.boxes, p.boxes[:, 0]) for p in dataset.images]
    write_proposals(tmp_path / "train.safetensors", entries, "rpn")
    given = ("--model", "fast_rcnn", "--proposals", str(tmp_path / "train.safetensors"))
    out = tmp_path / "run"
    argv = ["train", "--data", str(tiny_data), "--output_dir", str(out), "--backbone", "test_resnet", *given]
    assert main([*argv, "--mosaic_prob", "0.5"]) == 2
    assert "no precomputed proposals" in capfd.readouterr().err
    assert not out.exists()


class Shift(v2.Transform):
    """A transform that no file can create."""

    def __init__(self, pixels):
        super().__init__()
        self.pixels = pixels

    def transform(self, inpt, params):
        return v2.functional.affine(inpt, 0.0, [self.pixels, 0], 1.0, [0.0])


def broken(image, target):
    return image


def test_transforms_of_python_are_resumed_in_python(tiny_data, tmp_path, capfd):
    first, whole = tmp_path / "first", tmp_path / "whole"
    own = [Shift(5), v2.RandomRotation(20), {"class_path": "RandomInvert"}]
    steps = {"batch_size": 2, "num_workers": 0, "num_val_images_logged": 0, "val_split": "train", "ema": 0.9}
    settings = {"data": tiny_data, "detector": tiny_config(), "check_val_every_n_epoch": 9, **steps}
    settings["lr_milestones"] = []  # else they follow from max_steps, which differs between the runs
    with pytest.raises(UserError, match=r"augmentation broken, image .*not image and target"):
        libradet.train(augmentations=[broken], output_dir=str(first), **settings)
    assert not first.exists(), "refused before anything is written"
    libradet.train(augmentations=own, output_dir=str(whole), max_steps=3, **settings)
    libradet.train(augmentations=own, output_dir=str(first), max_steps=1, **settings)
    entries = yaml.safe_load((first / "config.yaml").read_text())["augmentations"]
    assert [list(entry) for entry in entries] == [["python"], ["python"], ["class_path"]]
    capfd.readouterr()
    assert main(["train", "--resume", str(first), "--max_steps", "3"]) == 2
    said = capfd.readouterr().err
    assert "test_augmented_training.Shift(pixels=5), which its configuration cannot create" in said
    with pytest.raises(UserError, match=r"started with augmentations .*Shift\(pixels=5.* cannot be resumed with"):
        libradet.train(resume=first, augmentations=[Shift(6), *own[1:]], max_steps=3)
    libradet.train(resume=first, augmentations=own, max_steps=3)
    assert_same(weights(first), weights(whole))
