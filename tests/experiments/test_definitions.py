"""Experiments and presets: the packaged files, and files of users."""

import re
from dataclasses import replace
from typing import get_args

import pytest
import yaml

from libradet.errors import UserError
from libradet.experiments.definitions import (
    list_names,
    nest,
    proposal_settings,
    read_experiment,
    read_preset,
    resolve_backbone_weights,
    row_settings,
)
from libradet.models.config import ClassBalanceConfig
from libradet.models.zoo import make_config
from libradet.training.options import parse_train
from libradet.utils.nested import flatten

OFFLINE = {"backbone": "resnet18", "weights": None}


def resolve_config(row, tmp_path, preset="small"):
    settings = row_settings(read_preset(preset), row, num_images=100) | OFFLINE
    path = tmp_path / "request.yaml"
    path.write_text(yaml.safe_dump(nest(settings | {"data": "d"})))
    return parse_train(["--config", str(path)])


def published_rows(text):
    """Return the numbers of each row of all Markdown tables in a text."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    lines = {tuple(float(cell) for cell in row if re.fullmatch(r"\d+\.\d", cell.strip())) for row in rows}
    return lines - {()}


@pytest.mark.parametrize("table", list_names())
def test_paper_values_are_those_published(table, shared_data):
    known = published_rows((shared_data.parent / "references.md").read_text())
    for row in read_experiment(table).rows:
        if row.paper:
            assert tuple(row.paper.values()) in known, row.name


def test_packaged_experiments():
    compared = {"components", "libra", "recipes", "sampler_bins", "samplers", "switches", "background"}
    ours = compared | {"balanced", "classes", "finetune", "initialization"}
    assert {f"table{i}" for i in range(1, 7)} | ours <= set(list_names())


def test_every_switch_of_balance_is_in_a_table():
    settings = [row.settings for name in list_names() for row in read_experiment(name).rows]
    values = {(key, str(value)) for row in settings for key, value in flatten(row)}
    keys = {key for key, _ in values}
    shares = ("random_fraction", "random_schedule", "floor_fraction", "floor_thr", "reweight_exponent")
    sampling = {f"detector.roi.sampling.{name}" for name in (*shares, "background_sampling", "batch_size_per_image")}
    assert sampling | {"repeat_factor_thresh", "detector.roi.generated_boxes"} <= keys
    assert ("detector.pyramid.balanced.gated", "True") in values
    types = get_args(ClassBalanceConfig.__annotations__["type"])
    assert {("detector.roi.class_balance.type", kind) for kind in types} <= values
    assert len(types) == 4


def test_initialization_evaluates_each_epoch_of_a_schedule_and_of_half_of_it():
    whole, half = read_experiment("initialization").rows
    epochs = whole.settings["max_epochs"]
    assert half.settings == whole.settings | {"max_epochs": epochs // 2}
    assert whole.settings["check_val_every_n_epoch"] == 1
    assert read_experiment("initialization").metrics == tuple(f"AP@{epoch}" for epoch in range(1, epochs + 1))


def test_preset_scratch_is_the_small_one_with_random_weights(tmp_path):
    small, scratch = read_preset("small"), read_preset("scratch")
    assert scratch.sections == small.sections
    assert scratch.backbones == {"resnet50": "resnet18"}
    assert resolve_backbone_weights(scratch, None, tmp_path) is None
    assert resolve_backbone_weights(scratch, "imagenet", tmp_path) == "imagenet"
    assert resolve_backbone_weights(small, None, tmp_path) == "imagenet"


def test_deltas_are_of_metrics_that_are_listed(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text("{title: t, metrics: [AP], deltas: [AP50], model: rpn, rows: [{name: a}]}")
    with pytest.raises(UserError, match=r"deltas has AP50, which metrics has not; add it there"):
        read_experiment(str(path))


def test_all_three_components_are_libra_fast_rcnn(tmp_path):
    row = read_experiment("components").row("all three")
    config, libra = resolve_config(row, tmp_path).detector, make_config("libra_fast_rcnn")
    assert config.pyramid.balanced == libra.pyramid.balanced
    assert config.roi.box_loss == libra.roi.box_loss
    libra.roi.sampling.batch_size_per_image = config.roi.sampling.batch_size_per_image
    assert config.roi.sampling == libra.roi.sampling
    assert read_experiment("table2").rows[-1].settings == row.settings


def test_baseline_is_plain_fast_rcnn(tmp_path):
    config, plain = resolve_config(read_experiment("table2").rows[0], tmp_path).detector, make_config("fast_rcnn")
    assert (config.pyramid.balanced, config.roi.box_loss) == (None, plain.roi.box_loss)
    assert (config.roi.sampling.positives, config.roi.sampling.negatives) == ("random", "random")


def test_baselines_of_rows():
    assert {row.baseline for row in read_experiment("table4").rows[1:]} == {"baseline"}
    baselines = {row.name: row.baseline for row in read_experiment("table1").rows}
    assert baselines["Libra RetinaNet, R50"] == "RetinaNet, R50"
    assert baselines["RetinaNet, R50"] is None


def test_rows_without_a_backbone_in_the_preset_are_omitted():
    preset = read_preset("small")
    kept = [row.name for row in read_experiment("table1").rows if preset.supports(row)]
    assert kept == ["Faster R-CNN, R50", "Libra R-CNN, R50", "RetinaNet, R50", "Libra RetinaNet, R50"]


@pytest.mark.parametrize("images", [1, 59, 205, 600, 5000])
def test_epochs_follow_from_the_number_of_images_seen(images):
    settings = row_settings(read_preset("small"), read_experiment("table2").rows[0], images)
    assert settings["max_epochs"] == max(1, round(1200 / images))


def test_repeated_images_do_not_lengthen_training():
    rows = {row.name: row for row in read_experiment("classes").rows}
    repeated = row_settings(read_preset("small"), rows["repeat factors, threshold 0.3"], num_images=301)
    assert repeated["max_steps"] == 4 * 151
    on_eight = row_settings(read_preset("coco"), rows["repeat factors, threshold 0.3"], num_images=301)
    assert on_eight["max_steps"] == 12 * 19
    assert on_eight["lr_milestones"] is None, "those of the shorter run, not of epochs that are longer"
    assert row_settings(read_preset("coco"), rows["baseline"], num_images=301)["lr_milestones"] == [8, 11]
    assert "max_steps" not in row_settings(read_preset("small"), rows["baseline"], num_images=301)


def test_overrides_count_before_what_follows_from_them():
    """Rows have equal budgets, and only the last epoch is evaluated, also with another number of epochs or images."""
    rows = {row.name: row for row in read_experiment("classes").rows}
    overrides = {"max_epochs": 9, "batch_size": 4}
    for name, steps in (("baseline", None), ("repeat factors, threshold 0.3", 9 * 76)):
        settings = row_settings(read_preset("small"), rows[name], 301, overrides)
        assert settings["check_val_every_n_epoch"] == settings["max_epochs"] == 9
        assert settings.get("max_steps") == steps
    repeated = row_settings(read_preset("small"), rows["baseline"], 301, {"repeat_factor_thresh": 0.1})
    assert repeated["max_steps"] == 4 * 151
    # 151 batches are 51 steps of three batches; two machines have 76 batches.
    for override, steps in (({"accumulate_grad_batches": 3}, 51), ({"num_nodes": 2}, 76)):
        repeated = row_settings(read_preset("small"), rows["repeat factors, threshold 0.3"], 301, override)
        assert repeated["max_steps"] == 4 * steps
    rpn = proposal_settings(read_preset("small"), 301, overrides)
    assert (rpn["check_val_every_n_epoch"], rpn["detector.detections.detections_per_img"]) == (9, 500)
    each = row_settings(read_preset("small"), read_experiment("initialization").rows[0], 301, {"max_epochs": 9})
    assert each["check_val_every_n_epoch"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbones": {"resnet18": "resnet18"}}, "preset small: baseline needs the backbone resnet50 and"),
        ({"schedules": {"1x": {"lr_milestones": [2]}}}, "the schedule 1x has neither images nor max_epochs"),
    ],
)
def test_what_a_preset_lacks_is_named(change, message):
    with pytest.raises(UserError, match=message):
        row_settings(replace(read_preset("small"), **change), read_experiment("table2").rows[0], 301)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("title: a\nmetrics: [AP]\nrows: [{name: b, model: faster_rcn}]", "faster_rcn"),
        ("title: a\nmetrics: [AP]\nrows: [{model: faster_rcnn}]", "row 1: name is missing"),
        ("title: a\nmetrics: [AP]\nrow: []", "did you mean rows"),
        ("title: a\nmetrics: [AP]", "rows is missing"),
        ("title: a\nmetrics: [AP]\nrows: [{name: b, model: rpn, paper: [1, 2]}]", "paper has 2 values"),
        ("title: a\nmetrics: [AP]\nrows: [{name: b, model: rpn, baseline: c}]", "is not a row"),
        ("title: a\nmetrics: [AP]\nproposals: mine\nrows: [{name: b, model: rpn}]", "can only be"),
        ("- a", "has no keys"),
        ("{", "cannot be read"),
        (
            "title: a\nmetrics: [AP, AP5O]\nrows: [{name: b, model: rpn}]",
            "metrics has AP5O, which does not exist; choose from AP, AP50",
        ),
        ("title: a\nmetrics: [AP@0]\nrows: [{name: b, model: rpn}]", "metrics has AP@0"),
        ("title: a\nmetrics: AP\nrows: [{name: b, model: rpn}]", "metrics is 'AP': it must be a list"),
        ("title: a\nmetrics: [AP]\nrows: 3", "rows is 3: it must be a list"),
        ("title: a\nmetrics: [AP]\nmodel: [rpn]\nrows: [{name: b}]", "model is .'rpn'.: it must be text"),
        ("title: a\nmetrics: [AP]\nrows: [{name: b, model: rpn}, {name: b, model: rpn}]", "two rows have the name 'b'"),
        (
            "title: a\nmetrics: [AP]\nrows: [{name: b, model: rpn, paper: 37.4}]",
            "row 1: paper is 37.4: it must be null or a list",
        ),
        ("title: a\nmetrics: [AP]\nrows: [{name: b, model: rpn, set: lr=0.1}]", "row 1: set is 'lr=0.1': it must be"),
        ("title: a\nmetrics: [AP]\nrows: [{name: b, model: rpn, set: [lr, 0.1]}]", "row 1: set is"),
        (
            "title: a\nmetrics: [AP]\nrows: [{name: b, model: rpn, set: {weights: imagenet}}]",
            "weights cannot be set here",
        ),
        ("title: a\nmetrics: [AP]\nrows: [{name: b, model: rpn, set: {seed: 3}}]", "seed cannot be set here; --seeds"),
        ("title: a\nmetrics: [AP]\nrows: [{name: b, model: rpn, set: {1: 3}}]", "key 1 is 1: it must be text"),
    ],
)
def test_invalid_files_are_refused_with_the_reason(content, message, tmp_path):
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        read_experiment(str(tmp_path / "mine.yaml"))


def test_unknown_names_get_a_suggestion():
    with pytest.raises(UserError, match="did you mean table4"):
        read_experiment("tabel4")
    with pytest.raises(UserError, match="did you mean small"):
        read_preset("smal")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "imagenet"),
        ("weights: none", None),
        ("weights: null", None),
        ("weights: mine.safetensors", "mine.safetensors"),
        ("weights: file", "imagenet"),
    ],
)
def test_weights_of_a_preset(line, expected, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"title: a\nbackbones: {{resnet50: resnet18}}\nschedules: {{1x: {{images: 8}}}}\n{line}\n")
    preset = read_preset(str(path))
    assert resolve_backbone_weights(preset, None, tmp_path) == expected
    assert resolve_backbone_weights(preset, "none", tmp_path) is None
    assert resolve_backbone_weights(preset, "other.safetensors", tmp_path) == "other.safetensors"


def test_preset_with_a_base_states_what_differs(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: small\nsettings: {lr: 0.1}\nweights: none\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine_too.yaml").write_text("base: ../mine.yaml\nthreads: 3\n")
    small, derived = read_preset("small"), read_preset(str(tmp_path / "sub" / "mine_too.yaml"))
    assert (derived.name, derived.threads, derived.weights) == ("mine_too", 3, "none")
    assert derived.sections == small.sections | {"settings": small.sections["settings"] | {"lr": 0.1}}
    assert (derived.backbones, derived.schedules) == (small.backbones, small.schedules)
    changes = "mine.yaml changes settings, weights of small; mine_too.yaml changes threads of ../mine.yaml"
    assert derived.deviations == f"{small.deviations}; {changes}"
    (tmp_path / "own.yaml").write_text("base: small\nthreads: 3\ndeviations: mine\n")
    assert read_preset(str(tmp_path / "own.yaml")).deviations == "mine"


def test_base_of_a_preset_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(UserError, match=r"a.yaml: base: this preset is based on itself; remove base in one of"):
        read_preset(str(tmp_path / "a.yaml"))
    (tmp_path / "b.yaml").write_text("base: smal\n")
    with pytest.raises(UserError, match=r"there is no preset smal; did you mean small\?"):
        read_preset(str(tmp_path / "a.yaml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("settings: [a]", "settings is"),
        ("settings: {data: d}", "settings: data cannot be set here; --data"),
        ("schedules: {1x: 12}", "schedules, 1x is 12: it must be"),
        ("schedules: {1x: {images: many}}", "schedules, 1x: images is 'many': it must be a whole number"),
        ("threads: two", "threads is 'two': it must be"),
        ("backbones: resnet50", "backbones is 'resnet50': it must be"),
        ("backbones: {resnet50: 3}", "backbones, resnet50 is 3: it must be text"),
    ],
)
def test_values_of_a_preset_are_refused_with_the_reason(content, message, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"base: small\n{content}\n")
    with pytest.raises(UserError, match=f"mine.yaml: {message}"):
        read_preset(str(tmp_path / "mine.yaml"))


def test_rows_that_repeat_tiled_images_need_a_number_of_steps():
    row = next(row for row in read_experiment("classes").rows if "repeat_factor_thresh" in row.settings)
    tiles = {"tiles": [640, 0.2]}
    with pytest.raises(UserError, match=r"repeats images, whose tiles are not counted before training.*max_steps"):
        row_settings(read_preset("small"), row, num_images=7, overrides=tiles)
    settings = row_settings(read_preset("small"), row, num_images=7, overrides=tiles | {"max_steps": 9})
    assert settings["max_steps"] == 9


def test_nested_settings_of_a_row_override_those_of_the_preset(tmp_path):
    row = read_experiment("table2").rows[0]
    nested = {"detector": {"image": {"size": [64, 128]}, "roi": {"fc_dim": 8}, "anchors": {"scales": [4]}}}
    settings = row_settings(read_preset("small"), replace(row, settings=nested), num_images=100)
    tree = nest(dict(sorted(settings.items())))
    assert tree["detector"]["image"]["size"] == [64, 128]
    assert tree["detector"]["roi"]["fc_dim"] == 8
    assert tree["detector"]["anchors"] == {"scales": [4]}
    assert tree["detector"]["pyramid"]["channels"] == 64, "that of the preset"
    assert nested["detector"]["roi"] == {"fc_dim": 8}


def test_unknown_keys_of_a_preset_are_refused_with_a_suggestion(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("title: a\nsetings: {}\nbackbones: {resnet50: resnet18}\nschedules: {1x: {images: 8}}\n")
    with pytest.raises(UserError, match=r"mine.yaml: there is no key 'setings'; did you mean settings\?"):
        read_preset(str(path))
