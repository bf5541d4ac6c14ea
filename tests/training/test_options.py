"""Tests of the command line and YAML files of ``libradet train``."""

import pytest
import yaml

from libradet.errors import UserError
from libradet.models.config import BalancedPyramidConfig
from libradet.models.zoo import make_config
from libradet.training.config import TrainConfig
from libradet.training.options import check_settings, parse_train, read_detector
from libradet.training.setup import choose_run_dir, write_config

DATA = ("--data", "somewhere")


def written(tmp_path, content):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_defaults_are_those_of_the_zoo():
    request = parse_train([*DATA, "--model", "libra_faster_rcnn", "--backbone", "resnet18"])
    assert request.config == TrainConfig("somewhere", backbone="resnet18")
    assert request.detector == make_config("libra_faster_rcnn", backbone="resnet18")
    assert request.resume is None


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        (["--detector.roi.sampling.negatives", "random"], lambda d: d.roi.sampling.negatives, "random"),
        (["--detector.pyramid.balanced", "null"], lambda d: d.pyramid.balanced, None),
        (["--detector.roi.box_loss.type=smooth_l1"], lambda d: d.roi.box_loss.type, "smooth_l1"),
        (["--detector.image.size", "[320, 533]"], lambda d: d.image.size, (320, 533)),
    ],
)
def test_each_component_changes_one_field(options, field, value):
    plain = parse_train([*DATA]).detector
    changed = parse_train([*DATA, *options]).detector
    assert field(plain) != value
    assert field(changed) == value
    assert sum(a != b for a, b in zip(_leaves(plain), _leaves(changed), strict=True)) == 1


def _leaves(detector):
    """Yield the values of the tree, with the balanced pyramid as one."""
    for name, value in vars(detector).items():
        if hasattr(value, "__dict__") and name != "balanced":
            yield from _leaves(value)
        else:
            yield value


def test_a_component_can_be_added_to_a_plain_detector():
    detector = parse_train([*DATA, "--model", "faster_rcnn", "--detector.pyramid.balanced.refine", "conv"]).detector
    assert detector.pyramid.balanced == BalancedPyramidConfig(level=2, refine="conv")


def test_command_line_overrides_file(tmp_path):
    file = written(
        tmp_path,
        {
            "data": "here",
            "max_epochs": 3,
            "model": "faster_rcnn",
            "detector": {"roi": {"sampling": {"batch_size_per_image": 64}}},
        },
    )
    request = parse_train(["--config", file, "--max_epochs", "5", "--detector.roi.sampling.neg_pos_ub", "5"])
    assert (request.config.data, request.config.max_epochs, request.config.model) == ("here", 5, "faster_rcnn")
    sampling = request.detector.roi.sampling
    assert (sampling.batch_size_per_image, sampling.neg_pos_ub, sampling.positive_fraction) == (64, 5, 0.25)


def test_items_of_lists_are_words_or_one_value():
    words = ["--lr_milestones", "8", "11", "--scale_jitter", "0.5", "2", "--detector.image.size", "480", "640"]
    values = ["--lr_milestones", "[8, 11]", "--scale_jitter=[0.5,2]", "--detector.image.size", "[480,640]"]
    request = parse_train([*DATA, *words, "--detector.rpn.anchors.scales", "4"])
    assert request == parse_train([*DATA, *values, "--detector.rpn.anchors.scales", "[4]"])
    assert (request.config.lr_milestones, request.config.scale_jitter) == ([8, 11], [0.5, 2])
    assert tuple(request.detector.image.size) == (480, 640)


def test_later_files_override_earlier_ones_key_by_key(tmp_path):
    paths = []
    for number, content in enumerate(
        (
            {
                "data": "here",
                "max_epochs": 3,
                "lr": 0.1,
                "detector": {"roi": {"fc_dim": 64, "sampling": {"batch_size_per_image": 32}}},
            },
            {
                "max_epochs": 5,
                "detector": {"roi": {"sampling": {"batch_size_per_image": 16}}, "pyramid": {"balanced": None}},
            },
        )
    ):
        paths.append(tmp_path / f"{number}.yaml")
        paths[-1].write_text(yaml.safe_dump(content))
    first, second = map(str, paths)
    request = parse_train(["--config", first, "--config", second, "--lr", "0.2"])
    assert (request.config.data, request.config.max_epochs, request.config.lr) == ("here", 5, 0.2)
    detector = request.detector
    assert (detector.roi.fc_dim, detector.roi.sampling.batch_size_per_image, detector.pyramid.balanced) == (
        64,
        16,
        None,
    )
    reverse = parse_train(["--config", second, "--config", first])
    assert (reverse.config.max_epochs, reverse.detector.roi.sampling.batch_size_per_image) == (3, 32)
    with pytest.raises(UserError, match="absent"):
        parse_train(["--config", first, "--config", str(tmp_path / "absent.yaml")])


def test_written_config_reproduces_the_run(tmp_path):
    options = (
        "--detector.pyramid.balanced",
        "null",
        "--lr_milestones",
        "[3, 4.5]",
        "--gradient_clip_val",
        "null",
        "--lr",
        "0.125",
    )
    request = parse_train([*DATA, "--model", "libra_faster_rcnn", "--backbone", "resnet18", *options])
    request.detector.class_names = ("яблоко", "no")
    request.detector.num_classes = 2
    write_config(tmp_path, request.config, request.detector)
    again = parse_train(["--config", str(tmp_path / "config.yaml")])
    assert again.config == request.config
    assert again.detector == request.detector
    resumed = parse_train(["--resume", str(tmp_path), "--max_epochs", "20"])
    assert resumed.config.max_epochs == 20
    assert resumed.resume == tmp_path


def test_pretrained_weights_freeze_the_default_stages_also_over_a_file(tmp_path):
    assert parse_train([*DATA, "--weights", "none"]).config.weights is None
    request = parse_train([*DATA])
    write_config(tmp_path, request.config, request.detector)
    pretrained = parse_train(["--config", str(tmp_path / "config.yaml"), "--weights", "imagenet"])
    assert pretrained.config.weights == "imagenet"
    assert pretrained.detector.backbone.freeze_at == 2
    assert pretrained.detector.backbone.frozen_norm


@pytest.mark.parametrize("value", [[], None, 3])
def test_a_section_without_fields_is_named(value):
    with pytest.raises(UserError, match=r"--detector.rpn.sampling: .* is not a mapping of fields"):
        read_detector({"rpn": {"sampling": value}}, "faster_rcnn")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--max_epcohs", "3"], "did you mean --max_epochs?"),
        (["--out", "x"], "did you mean --output_dir?"),
        (["--flip", "1"], "did you mean --hflip_prob?"),
        (["--learning_rate", "1"], "did you mean --lr?"),
        (["--threshold", "1"], "did you mean --detector.detections.score_thresh?"),
        (["--scale_jitter", "much"], r"--scale_jitter: much is not null or a list, each item a number"),
        (["--detector.rpn.sampling", "x"], "--detector.rpn.sampling: x is not a mapping of fields"),
        (["--detector.rpn.sampling", "[]"], "--detector.rpn.sampling: .* is not a mapping of fields"),
        (["--detector.rpn.sampling", "null"], "--detector.rpn.sampling: None is not a mapping of fields"),
        (["--resume", "nodir"], "--resume nodir: no such folder"),
        (["--detector.roi.box_loss.wieght", "2"], "did you mean --detector.roi.box_loss.weight?"),
        (["--detector.roi.box_loss.kind", "l1"], "did you mean --detector.roi.box_loss?"),
        (
            ["--detector.roi.samplng.batch_size_per_image", "3"],
            "did you mean --detector.roi.sampling.batch_size_per_image?",
        ),
        (["--detector.roi.sampling.negatives", "hard"], "hard is not one of random, iou_balanced, ohem"),
        (["--max_epochs", "many"], "--max_epochs: many is not a whole number"),
        (["--lr"], "--lr"),
        (["--model", "libra_fastr_rcnn"], "libra_faster_rcnn"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["--config", "a.yaml", "--resume", "b"], "exclude each other"),
        (["--resume", "nowhere"], "nowhere"),
        (["--detector.model", "rpn"], "detector.model"),
    ],
)
def test_errors_on_the_command_line(argv, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")) as error:
        parse_train([*DATA, *argv])
    assert len(str(error.value).splitlines()) == 1


def test_data_is_required():
    with pytest.raises(UserError, match="--data"):
        parse_train([])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"max_epcohs": 3}, "did you mean max_epochs?"),
        ({"detector": {"roi": {"samplng": {"batch_size_per_image": 3}}}}, "detector.roi.sampling"),
        ({"detector": {"roi": {"fc_dim": "wide"}}}, "wide is not a whole number"),
        (["epochs"], "contains no keys"),
    ],
)
def test_errors_in_a_file(tmp_path, content, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        parse_train([*DATA, "--config", written(tmp_path, content)])


def test_a_file_with_a_complete_other_model_is_refused(tmp_path):
    request = parse_train([*DATA, "--model", "faster_rcnn"])
    write_config(tmp_path, request.config, request.detector)
    with pytest.raises(UserError, match="contains a complete faster_rcnn"):
        parse_train(["--config", str(tmp_path / "config.yaml"), "--model", "libra_faster_rcnn"])


def test_run_folders_are_numbered_and_never_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = TrainConfig("somewhere", model="faster_rcnn")
    assert str(choose_run_dir(config, "resnet18.tv_in1k")) == "runs/faster_rcnn-resnet18"
    (tmp_path / "runs" / "faster_rcnn-resnet18").mkdir(parents=True)
    assert str(choose_run_dir(config, "resnet18")) == "runs/faster_rcnn-resnet18-2"
    (tmp_path / "mine" / "data").mkdir(parents=True)
    config.output_dir = "mine"
    assert str(choose_run_dir(config, "resnet18")) == "mine"
    (tmp_path / "mine" / "config.yaml").touch()
    with pytest.raises(UserError, match="--resume mine"):
        choose_run_dir(config, "resnet18")


def test_a_detector_from_a_mapping_is_that_of_a_file(tmp_path):
    fields = {"roi": {"fc_dim": 64}, "pyramid": {"balanced": None}}
    file = written(tmp_path, {"data": "here", "model": "libra_faster_rcnn", "detector": fields})
    assert read_detector(fields, "libra_faster_rcnn") == parse_train(["--config", file]).detector
    assert read_detector({"model": "retinanet"}, "faster_rcnn") == make_config("retinanet")
    with pytest.raises(UserError, match=r"did you mean detector\.roi\.fc_dim"):
        read_detector({"roi": {"fc_dims": 64}}, "faster_rcnn")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"foo": 1}, "no key foo"), ({"learning_rate": 1}, "mean lr"), ({"lr": "x"}, "--lr: x is not a number or null")],
)
def test_settings_are_checked_without_a_run(settings, message):
    check_settings({"max_epochs": 3, "detector.roi.fc_dim": 8})
    with pytest.raises(UserError, match=message):
        check_settings(settings)
