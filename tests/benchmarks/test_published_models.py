"""The table of milliseconds per image of the published detectors: one row per architecture."""

import sys

import pytest
import torch

from benchmarks import published_models
from libradet.interop.coco_weights import COCO_WEIGHTS
from libradet.models.zoo import make_config


def test_each_architecture_is_measured_once():
    measured = list(published_models.architectures())
    pairs = [(w.model, w.backbone) for w in measured if not w.torchvision_weights]
    assert len(set(pairs)) == len(pairs)
    assert set(pairs) == {(w.model, w.backbone) for w in COCO_WEIGHTS if not w.torchvision_weights}
    assert {w.name for w in COCO_WEIGHTS if w.torchvision_weights} <= {w.name for w in measured}


def test_rows(monkeypatch, capsys):
    def build_small(weights):
        config = make_config("retinanet", 2, "test_resnet")
        config.pyramid.channels = 8
        built.append(weights.name)
        return published_models.libradet.create_model(config=config)

    built = []
    monkeypatch.setattr(published_models, "build", build_small)
    threads = str(torch.get_num_threads())
    arguments = ["--size", "32", "64", "--rounds", "1", "--names", "libra_retina*", "--threads", threads]
    monkeypatch.setattr(sys, "argv", ["published_models", *arguments])
    published_models.main()
    _, head, line, *rows = capsys.readouterr().out.splitlines()
    expected = [w.name for w in published_models.architectures() if w.name.startswith("libra_retina")]
    assert [row.split("|")[1].strip() for row in rows] == [f"`{name}`" for name in expected]
    assert set(built) == set(expected)
    assert expected
    assert {row.count("|") for row in rows} == {head.count("|")} == {line.count("|")}
    assert all(float(cell) >= 0 for row in rows for cell in row.split("|")[2:-1])


@pytest.mark.slow
def test_models_are_those_of_the_names():
    for weights in published_models.architectures():
        model = published_models.build(weights)
        assert (model.config.model, model.config.backbone.name) == (weights.model, weights.backbone)
