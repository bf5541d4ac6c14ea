"""Untrusted model files: configurations that exceed the memory, or that refer to files and downloads."""

import json
import resource

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from libradet.errors import UserError
from libradet.models.serialization import load_model, save_model
from tests.helpers.tiny_detectors import tiny_config, tiny_detector


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(tiny_detector(), path)
    return path


def changed(saved, path, *places, value):
    """Write a copy whose configuration has another value at one place."""
    with safe_open(saved, "pt") as file:
        about = dict(file.metadata())
    config = json.loads(about["config"])
    part = config
    for place in places[:-1]:
        part = part[place]
    part[places[-1]] = value
    save_file(load_file(saved), path, about | {"config": json.dumps(config)})
    return path


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize(
    ("places", "value"),
    [
        (("pyramid", "channels"), 60_000),
        (("roi", "fc_dim"), 10**9),
        (("num_classes",), 10**9),
        (("roi", "num_fcs"), 10**9),
        (("rpn", "num_convs"), 10**9),
        (("pyramid", "num_levels"), 10**9),
        (("backbone", "name"), "resnet152"),
    ],
)
def test_models_larger_than_their_file_are_not_built(saved, tmp_path, places, value):
    before = peak()
    path = changed(saved, tmp_path / "x.safetensors", *places, value=value)
    with pytest.raises(UserError):
        load_model(path)
    assert peak() - before < 300_000, "KiB"


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18.a1_in1k", "local-dir:/tmp", "hf_hub:a/b", "no such thing", ""])
def test_backbone_names_cause_no_download(saved, tmp_path, monkeypatch, name):
    import timm.models._hub

    def fetched(*_, **__):
        raise AssertionError("fetched")

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", fetched, raising=False)
    with pytest.raises(UserError, match="is not a timm model"):
        load_model(changed(saved, tmp_path / "x.safetensors", "backbone", "name", value=name))


def test_a_valid_file_is_loaded(saved):
    model, other = load_model(saved), tiny_detector(tiny_config())
    assert all(torch.equal(t, other.state_dict()[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("places", "value", "said"),
    [
        (("pyramid", "start_stride"), 5, "pyramid.start_stride is 5"),
        (("roi", "sampling", "batch_size_per_image"), 10**400, "roi.sampling.batch_size_per_image is 1000"),
        (("roi", "fc_dim"), 2**31, "is too large to build"),
        (("roi", "box_loss", "type"), "x" * 30_000, "type"),
    ],
)
def test_values_out_of_range_are_refused_in_a_short_message(saved, tmp_path, places, value, said):
    path = changed(saved, tmp_path / "odd.safetensors", *places, value=value)
    with pytest.raises(UserError) as refused:
        load_model(path)
    assert said in str(refused.value)
    assert len(str(refused.value)) < 1000
