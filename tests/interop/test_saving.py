"""Checkpoints for other toolboxes: what they do not contain is named, and what the toolbox lacks is refused."""

import pytest

import libradet
from libradet.cli import main
from libradet.errors import UserError
from libradet.interop.saving import config_differences
from libradet.models.serialization import save_model


def make(pyramid, name="faster_rcnn", **roi):
    config = {"backbone": {"name": "resnet18"}, "roi": {"fc_dim": 8, **roi}, "pyramid": {"channels": 32, **pyramid}}
    return libradet.create_model(name, num_classes=2, config=config)


@pytest.mark.parametrize(
    ("name", "parts", "toolbox", "reason"),
    [
        ("rpn", {}, "torchvision", "it has no 'roi_heads.box_predictor.cls_score.weight'"),
        ("fast_rcnn", {"roi": {"fc_dim": 8}}, "torchvision", "without rpn"),
        ("cascade_rcnn", {"roi": {"fc_dim": 8}, "mask": {"channels": 8}}, "mmdet", "with mask"),
    ],
)
def test_detectors_that_the_toolbox_lacks_are_refused(name, parts, toolbox, reason):
    config = {"backbone": {"name": "resnet18"}, "pyramid": {"channels": 32}, **parts}
    model = libradet.create_model(name, num_classes=2, config=config)
    with pytest.raises(UserError, match=rf"has no such {name}.*{reason}"):
        config_differences(model, toolbox)


@pytest.mark.parametrize("toolbox", ["mmdet", "torchvision"])
def test_levels_without_weights_are_named(toolbox):
    """A level by max pooling has no tensors: with another number of them, detections differ."""
    named = [line for line in config_differences(make({"num_levels": 6}), toolbox) if "pyramid" in line]
    assert named == ["pyramid.num_levels: 6 here, 5 there"]
    assert not any("pyramid" in line for line in config_differences(make({}), toolbox))


@pytest.mark.parametrize(
    ("name", "named"), [("fast_rcnn", ["roi.test_proposals: 300 here, 1000 there"]), ("faster_rcnn", [])]
)
def test_the_limit_of_precomputed_proposals_is_named_where_it_counts(name, named):
    differences = config_differences(make({}, name, test_proposals=300), "mmdet")
    assert [line for line in differences if "roi.test_proposals" in line] == named


def test_a_detector_that_the_toolbox_lacks_is_refused_before_anything_is_written(tmp_path, capsys):
    save_model(make({"start_stride": 8}), tmp_path / "x.safetensors")
    output = tmp_path / "new" / "x.pth"
    assert main(["convert", str(tmp_path / "x.safetensors"), str(output), "--to", "mmdet"]) == 2
    assert "mmdetection has no such faster_rcnn: its pyramid has 3 lateral convolutions" in capsys.readouterr().err
    assert not output.parent.exists()
    argv = ["convert", str(tmp_path / "x.safetensors"), str(output), "--norm_eps", "0"]
    assert main(argv) == 2
    assert "leave out norm_eps" in capsys.readouterr().err
