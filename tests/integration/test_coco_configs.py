"""The files in configs/ follow the paper, and documented commands work."""

import re
import shlex
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from libradet.models.detector import Detector
from libradet.models.zoo import MODELS, make_config
from libradet.training.optim import multistep_factor, resolve
from libradet.training.options import parse_train

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(ROOT.glob("configs/**/*.yaml"))
IMAGES = 117_266
"""Of train2017, with objects."""


def documented() -> list[list[str]]:
    """The options of every documented line that trains."""
    lines = re.findall(r"^.*\btrain --config .*$", (ROOT / "docs" / "training_coco.md").read_text(), re.MULTILINE)
    return [shlex.split(line)[shlex.split(line).index("train") + 1 :] for line in lines]


@cache
def _parsed(argv: tuple[str, ...]):
    return parse_train(list(argv))


def parsed(argv: list[str]):
    """What a documented line asks for; several tests are about each of them."""
    return deepcopy(_parsed(tuple(argv)))


def name_of(argv: list[str]) -> str:
    return " ".join(a.removeprefix("configs/coco/") for a in argv if a not in ("--data", "coco", "--config"))


def systems() -> set[tuple[str, str, int]]:
    """Model, backbone and epochs of the documented lines."""
    found = set()
    for argv in documented():
        config = parsed(argv).config
        if "--devices" not in argv and not any(a.startswith("--detector") for a in argv):
            found.add((config.model, config.backbone, config.max_epochs))
    return found


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("argv", documented(), ids=name_of)
def test_documented_commands_follow_the_papers_protocol(argv):
    request = parsed(argv)
    config = resolve(request.config, IMAGES // request.config.batch_size // request.config.world_size)
    assert config.effective_batch_size == 16 or (
        "--lr" in argv and config.lr * 16 == 0.01 * config.effective_batch_size
    )
    if "--lr" not in argv:
        assert config.lr == pytest.approx(0.01 if "retinanet" in config.model else 0.02)
    assert (config.momentum, config.weight_decay, config.lr_gamma, config.gradient_clip_val) == (0.9, 1e-4, 0.1, 35)
    assert config.decay_norm_bias
    assert (config.warmup_steps, config.warmup_start_factor, config.hflip_prob) == (500, pytest.approx(1 / 3), 0.5)
    assert (config.max_epochs, config.lr_milestones) in ((12, [8, 11]), (24, [16, 22]))
    assert config.precision == ("bf16" if "bf16" in argv else "fp32")
    assert config.weights == "imagenet"
    detector = request.detector
    assert detector.image.size == (800, 1333)
    assert (detector.backbone.freeze_at, detector.backbone.frozen_norm) == (2, True)


def test_the_schedule_is_that_of_the_paper():
    config = resolve(parse_train(["--config", "configs/coco/1x.yaml", "--data", "coco"]).config, 7329)
    drops = [round(epoch * 7329) for epoch in config.lr_milestones]

    def rate(step):
        return config.lr * multistep_factor(
            step, config.warmup_steps, config.warmup_start_factor, drops, config.lr_gamma
        )

    assert rate(0) == pytest.approx(0.02 / 3)
    assert rate(250) == pytest.approx(0.02 * 2 / 3)
    assert rate(500) == rate(8 * 7329 - 1) == pytest.approx(0.02)
    assert rate(8 * 7329) == rate(11 * 7329 - 1) == pytest.approx(0.002)
    assert rate(11 * 7329) == rate(12 * 7329 - 1) == pytest.approx(0.0002)


def test_every_system_of_the_paper_is_documented():
    backbones = ("resnet50", "resnet101", "resnext101_64x4d")
    expected = {(model, b, 12) for model in ("faster_rcnn", "libra_faster_rcnn", "rpn") for b in backbones}
    expected |= {(model, "resnet101", 24) for model in ("faster_rcnn", "libra_faster_rcnn")}
    expected |= {(model, "resnet50", 12) for model in ("retinanet", "libra_retinanet", "libra_rpn")}
    assert systems() == expected


@pytest.mark.parametrize("argv", documented(), ids=name_of)
def test_documented_commands_describe_detectors_that_can_be_built(argv):
    request = parsed(argv)
    with torch.device("meta"):
        model = Detector(request.detector)
    assert (model.balance is not None) == (request.detector.pyramid.balanced is not None)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert not any(name.startswith(("backbone.body.conv1", "backbone.body.layer1")) for name in trained)
    if not any(a.startswith("--detector") for a in argv):
        expected = make_config(request.config.model, backbone=request.config.backbone, weights="imagenet")
        assert request.detector == expected


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_can_be_parsed_on_its_own(path):
    request = parse_train(["--config", str(path), "--data", "coco"])
    for key, value in yaml.safe_load(path.read_text()).items():
        if key != "detector":
            assert getattr(request.config, key) == value
    with torch.device("meta"):
        Detector(request.detector)


def test_every_entry_of_the_zoo_fits_the_protocol():
    for model in MODELS:
        request = parse_train(["--config", "configs/coco/1x.yaml", "--data", "coco", "--model", model])
        assert request.detector == make_config(model, weights="imagenet")
