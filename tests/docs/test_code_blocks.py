"""Every block of code in README and documentation is run, or at least understood by the real parser."""

from functools import partial

import jaxtyping
import lightning.pytorch as pl
import pytest
import supervision as sv
import torch
import torchvision
import yaml
from lightning.pytorch.loggers.logger import DummyLogger
from pages import PAGES, ROOT, Block, blocks, command_lines

import libradet.api
from libradet.cli.app import build_parser, main
from libradet.experiments.definitions import read_experiment, read_preset
from libradet.models.detector import Detector
from libradet.models.zoo import make_config
from libradet.training.options import parse_train

BLOCKS = [block for page in PAGES for block in blocks(page)]
RUN = [block for block in BLOCKS if block.reason is None]
CHEAP = [("data", "check"), ("data", "stats"), ("data", "convert"), ("convert",), ("evaluate",), ("predict",)]
SMALLER = {"(800, 1333)": "(64, 96)", "[640, 800, (960, 1600)]": "[48, 64, (72, 120)]"}
# What is written for everybody, not for these stand-ins.
MEANT_FOR_OTHERS = ("IMAGE", "proposals", "runs/rpn/", "runs/cells/", "theirs.pth", "mine.safetensors", "detector.")


def lines(chosen=RUN):
    """Distinct command lines, each with the block in which it is first."""
    found: dict[tuple[str, ...], Block] = {}
    for block in chosen:
        if block.kind == "sh":
            for words in command_lines(block):
                found.setdefault(tuple(words), block)
    return [pytest.param(words, id=f"{block}-{' '.join(words)[:60]}") for words, block in found.items()]


def pages_with_python():
    """Those that take longest are for `make test-slow`; the README trains, measures and predicts as they do."""
    names = [str(page.relative_to(ROOT)) for page in PAGES if any(block.kind == "python" for block in blocks(page))]
    slow = ("docs/augmentation.md", "docs/index.md", "docs/python.md", "docs/supervision.md", "docs/export.md")
    return [pytest.param(ROOT / name, id=name, marks=[pytest.mark.slow] * (name in slow)) for name in names]


def is_cheap(words):
    return words[: 2 if words[0] == "data" else 1] in CHEAP and not any(
        word.startswith(MEANT_FOR_OTHERS) for word in words
    )


def test_blocks_that_are_not_run_say_why():
    skipped = [block for block in BLOCKS if block.reason is not None]
    assert all(len(block.reason.split()) > 1 for block in skipped)
    # Code that nobody runs goes wrong unseen: there are few of it, and more of it is a decision.
    assert len(skipped) <= 6
    assert len(skipped) < len(RUN) / 5
    text = "".join(page.read_text() for page in PAGES)
    assert text.count("<!-- not run") == len(skipped), "a mark stands directly above the block that it is about"


def test_only_known_languages():
    assert {block.kind for block in BLOCKS} <= {"sh", "python", "yaml", "bibtex"}


@pytest.mark.parametrize("words", lines())
def test_command_lines_are_understood(words, place):
    if words[0] == "export":
        pytest.importorskip("libradet.export")
    if words[0] != "train":
        assert callable(build_parser().parse_args(words).run)
        return
    request = parse_train([word for word in words[1:] if "tf_efficientnet" not in word])
    assert request.detector.model == request.config.model


def test_what_the_parser_does_not_know_is_noticed(place):
    for words in (["evaluate", "m", "--data", "DIR", "--speling", "1"], ["train", "--data", "DIR", "--speling", "1"]):
        with pytest.raises(libradet.errors.UserError, match="speling"):
            parse_train(words[1:]) if words[0] == "train" else build_parser().parse_args(words)


@pytest.mark.parametrize("words", [line for line in lines() if is_cheap(line.values[0])])
def test_cheap_command_lines_run(words, place):
    small = ["--size", "64", "96"] if words[0] in ("evaluate", "predict") and "--tta_scales" not in words else []
    assert main([*words, *small]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("words", [line for line in lines() if line.values[0][0] == "train"])
def test_training_lines_run_a_step(words, place):
    if {"--resume", "--proposals", "--num_nodes"} & set(words):
        pytest.skip("needs what another line leaves, or other machines")
    small = [
        "--max_steps",
        "1",
        "--max_epochs",
        "1",
        "--devices",
        "1",
        "--num_workers",
        "0",
        "--num_val_images_logged",
        "0",
    ]
    small += ["--detector.image.size", "[64,96]", "--detector.pyramid.channels", "16", "--compile", "false"]
    # The checkpoint that stands for a reader's is a Libra R-CNN.
    start = (
        ["--model", "libra_faster_rcnn"]
        if ".pth" in " ".join(words)
        else ["--backbone", "test_resnet", "--weights", "none"]
    )
    assert main([*words, *small, *start, "--output_dir", "runs/small"]) == 0


@pytest.mark.parametrize("block", [block for block in RUN if block.kind == "yaml"], ids=str)
def test_yaml_blocks_are_understood(block, place):
    (place / "block.yaml").write_text(block.text)
    keys = yaml.safe_load(block.text)
    if "rows" in keys:
        assert read_experiment("block.yaml").rows
    elif "base" in keys:
        assert read_preset("block.yaml").backbones
    else:
        parse_train(["--config", "block.yaml", "--data", "DIR"])


@pytest.mark.parametrize("page", pages_with_python())
def test_python_blocks_run(page, place, stand_ins, monkeypatch):
    for block in blocks(page):
        if block.kind == "python" and block.reason is None:
            # As readers run it: what is traced for export must not be compared with numbers by the suite's checks.
            monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
            # Line numbers of a traceback are those of the page.
            code = "\n" * (block.line - 1) + smaller(block.text)
            exec(compile(code, str(page.relative_to(ROOT)), "exec"), stand_ins)


@pytest.fixture
def stand_ins(place, monkeypatch):
    """Small values for names that readers have of their own; what takes hours takes a step."""
    monkeypatch.setattr(libradet.api, "train", partial(train_a_step, libradet.api.train))
    monkeypatch.setattr(libradet.api, "create_model", partial(create_small, libradet.api.create_model))
    monkeypatch.setattr(libradet.api, "load_model", partial(load_small, libradet.api.load_model))
    tiny_trainer = {"max_steps": 1, "accelerator": "cpu", "logger": False}
    monkeypatch.setattr(pl, "Trainer", partial(pl.Trainer, **tiny_trainer))
    (place / "cells").unlink()
    detection = torchvision.models.detection
    tiny = {"weights_backbone": None, "min_size": 64, "max_size": 96}
    monkeypatch.setattr(detection, "fasterrcnn_resnet50_fpn", partial(detection.fasterrcnn_resnet50_fpn, **tiny))
    box, label = torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.tensor([1])
    known = {split: sv.DetectionDataset.from_coco("DIR/images", f"DIR/{split}.json") for split in ("train", "val")}
    return {
        "MyCallback": pl.Callback,
        "MyLogger": DummyLogger,
        "images": [torch.rand(3, 64, 96)],
        "targets": [{"boxes": box, "labels": label}],
        "negatives": torch.ones(2, 1000, dtype=torch.bool),
        "iou": torch.rand(2, 1000) / 2,
        "train_set": known["train"],
        "val_set": known["val"],
    }


def smaller(text):
    """The block with small images."""
    for large, small in SMALLER.items():
        text = text.replace(large, small)
    return text


def train_a_step(train, model="libra_faster_rcnn", data="", **settings):
    """``libradet.train`` as the page says it, but small."""
    small = {
        "max_epochs": 1,
        "max_steps": 1,
        "batch_size": 2,
        "num_workers": 0,
        "num_val_images_logged": 0,
        "backbone": "test_resnet",
    }
    detector = narrow(make_config(model, backbone="test_resnet"))
    return train(model, data, **settings | small | {"weights": None, "detector": detector})


def create_small(create, name="libra_faster_rcnn", num_classes=80, backbone=None, class_names=(), weights=None):
    """``libradet.create_model`` as the page says it, but small."""
    make_config(name, num_classes, backbone)
    if weights is not None:
        return create(name, class_names=class_names, weights=weights)
    return create(config=narrow(make_config(name, num_classes, "test_resnet")), class_names=class_names)


def load_small(load, path, *args):
    """``libradet.load_model``; foreign checkpoints want large images."""
    model = load(path, *args)
    if isinstance(model, Detector):
        model.config.image.size = (64, 96)
    return model


def narrow(config):
    config.image.size = (64, 96)
    config.pyramid.channels, config.roi.fc_dim, config.roi.sampling.batch_size_per_image = 16, 32, 64
    config.rpn.train_proposals.post_nms_top_n = config.rpn.test_proposals.post_nms_top_n = 60
    return config
