"""Tiny stand-ins for what the documentation speaks of: DIR, runs/x, street.jpg, ..."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
from pages import ROOT
from PIL import Image

from libradet.cli import main
from libradet.data.synthesis.synthetic import synthesize
from libradet.interop.coco_weights import COCO_WEIGHTS, with_torchvision_facts
from libradet.interop.weights_cache import converted_path

TINY = ROOT / "tests" / "training" / "tiny.yaml"


@pytest.fixture(scope="session")
def things(tmp_path_factory) -> Path:
    """A folder with a dataset, a run on it, and images."""
    folder = tmp_path_factory.mktemp("things")
    synthesize(folder / "DIR", train=4, val=2, size=(144, 96), classes=4)
    for name in ("coco", "cells"):
        (folder / name).symlink_to("DIR")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "my.yaml").write_text("max_epochs: 3\n")
    run = folder / "runs" / "x"
    words = [
        "train",
        "--config",
        str(TINY),
        "--data",
        str(folder / "DIR"),
        "--output_dir",
        str(run),
        "--max_steps",
        "1",
    ]
    assert main([*words, "--backbone", "resnet18", "--max_epochs", "1"]) == 0
    for name in ("libra", "whole", "tiles"):
        shutil.copytree(run, folder / "runs" / name)
    assert main(["convert", str(run / "best.safetensors"), str(folder / "epoch_12.pth"), "--to", "mmdet"]) == 0
    shutil.copy(folder / "epoch_12.pth", folder / "model_final.pkl")
    checkpoints = folder / "cache" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TORCH_HOME", str(folder / "cache"))
        for weights in map(with_torchvision_facts, COCO_WEIGHTS):
            converted_path(weights).symlink_to(run / "best.safetensors")
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    for name in ("street", "a", "b"):
        Image.fromarray(image).save(folder / f"{name}.jpg")
    with sv.VideoSink(str(folder / "street.mp4"), sv.VideoInfo(96, 64, 10)) as sink:
        sink.write_frame(image)
    return folder


@pytest.fixture
def place(things, tmp_path, monkeypatch) -> Path:
    """The working directory: a fresh folder in which those lie."""
    for thing in things.iterdir():
        if thing.name != "runs":
            (tmp_path / thing.name).symlink_to(thing)
    (tmp_path / "runs").mkdir()
    for run in (things / "runs").iterdir():
        (tmp_path / "runs" / run.name).symlink_to(run)
    monkeypatch.chdir(tmp_path)
    # Whatever name of published weights a page uses, the run's detector is cached under it.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    return tmp_path
