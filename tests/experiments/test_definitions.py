"""What is compared: the tables that come along, and files of one's own."""

import re

import pytest
import yaml

from libradet.errors import UserError
from libradet.experiments.definitions import names, read_experiment
from libradet.experiments.laboratory import Laboratory, Site, check_runs
from libradet.experiments.presets import nested, read_preset, settings_of
from libradet.models.zoo import make_config
from libradet.train_options import parse_train

OURS = {"backbone": "resnet18", "weights": None}


def config_of(row, tmp_path, preset="small"):
    settings = settings_of(read_preset(preset), row, images=100) | OURS
    path = tmp_path / "request.yaml"
    path.write_text(yaml.safe_dump(nested(settings | {"data": "d"})))
    return parse_train(["--config", str(path)])


def published(text):
    """The numbers of every row of every table in a text."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    lines = {tuple(float(cell) for cell in row if re.fullmatch(r"\d+\.\d", cell.strip())) for row in rows}
    return lines - {()}


@pytest.mark.parametrize("table", names())
def test_the_papers_numbers_are_the_papers(table, shared_data):
    known = published((shared_data.parent / "references.md").read_text())
    for row in read_experiment(table).rows:
        if row.paper:
            assert tuple(row.paper.values()) in known, row.name


def test_six_tables_and_four_of_our_own_come_along():
    assert {f"table{i}" for i in range(1, 7)} | {"bins", "libra", "recipes", "switches"} == set(names())


def test_all_three_switches_together_are_libra_fast_rcnn(tmp_path):
    row = read_experiment("switches").row("all three")
    found, libra = config_of(row, tmp_path).detector, make_config("libra_fast_rcnn")
    assert found.pyramid.balanced == libra.pyramid.balanced
    assert found.roi.box_loss == libra.roi.box_loss
    libra.roi.sampling.size = found.roi.sampling.size
    assert found.roi.sampling == libra.roi.sampling
    assert read_experiment("table2").rows[-1].settings == row.settings


def test_the_baseline_is_fast_rcnn_as_it_is(tmp_path):
    found, plain = config_of(read_experiment("table2").rows[0], tmp_path).detector, make_config("fast_rcnn")
    assert (found.pyramid.balanced, found.roi.box_loss) == (None, plain.roi.box_loss)
    assert (found.roi.sampling.positives, found.roi.sampling.negatives) == ("random", "random")


@pytest.mark.parametrize(("preset", "table"), [("coco", "table1"), *(("small", name) for name in names())])
def test_training_takes_the_settings_of_every_row(table, preset, tmp_path):
    experiment = read_experiment(table)
    laboratory = Laboratory(read_preset(preset), (Site("d", tmp_path, 100, None),), (0,), tmp_path, 1)
    site = laboratory.sites[0]
    check_runs([laboratory.run(site, row, 0, experiment.shared_proposals) for row in laboratory.rows(experiment)])


def test_a_setting_that_does_not_exist_is_refused_before_anything_is_trained(tmp_path):
    overrides = {"detector.roi.sampling.negative": "random"}
    laboratory = Laboratory(read_preset("small"), (Site("d", tmp_path, 9, None),), (0,), tmp_path, 1, overrides)
    run = laboratory.run(laboratory.sites[0], read_experiment("table2").rows[0], 0, shared=False)
    with pytest.raises(UserError, match="negatives"):
        check_runs([run])


def test_what_rows_are_compared_with():
    assert {row.against for row in read_experiment("table4").rows[1:]} == {"baseline"}
    gains = {row.name: row.against for row in read_experiment("table1").rows}
    assert gains["Libra RetinaNet, R50"] == "RetinaNet, R50"
    assert gains["RetinaNet, R50"] is None


def test_rows_without_a_backbone_in_the_preset_are_left_out():
    preset = read_preset("small")
    kept = [row.name for row in read_experiment("table1").rows if preset.has(row)]
    assert kept == ["Faster R-CNN, R50", "Libra R-CNN, R50", "RetinaNet, R50", "Libra RetinaNet, R50"]


@pytest.mark.parametrize("images", [1, 59, 205, 600, 5000])
def test_epochs_follow_from_the_images_to_be_seen(images):
    epochs = settings_of(read_preset("small"), read_experiment("table2").rows[0], images)["epochs"]
    assert epochs == max(1, round(1200 / images))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("title: a\nmeasures: [AP]\nrows: [{name: b, model: faster_rcn}]", "faster_rcn"),
        ("title: a\nmeasures: [AP]\nrows: [{model: faster_rcnn}]", "row 1: name is missing"),
        ("title: a\nmeasures: [AP]\nrow: []", "did you mean rows"),
        ("title: a\nmeasures: [AP]", "rows is missing"),
        ("title: a\nmeasures: [AP]\nrows: [{name: b, model: rpn, paper: [1, 2]}]", "paper has 2 numbers"),
        ("title: a\nmeasures: [AP]\nrows: [{name: b, model: rpn, against: c}]", "which is no row"),
        ("title: a\nmeasures: [AP]\nproposals: mine\nrows: [{name: b, model: rpn}]", "can only be"),
        ("- a", "holds no keys"),
        ("{", "cannot be read"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_what_is_wrong(content, said, tmp_path):
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(UserError, match=said):
        read_experiment(str(tmp_path / "mine.yaml"))


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(UserError, match="did you mean table4"):
        read_experiment("tabel4")
    with pytest.raises(UserError, match="did you mean small"):
        read_preset("smal")
