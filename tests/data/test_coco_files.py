"""COCO files of any name, image lists without annotations, and files that are left out."""

import json

import pytest

from libradet.cli.app import main
from libradet.data.read import check, read, splits
from libradet.errors import UserError
from tests.helpers.data_building import records, write, write_images


@pytest.mark.parametrize(
    ("name", "images", "split"),
    [
        ("result.json", "images", "all"),
        ("labels.json", "data", "all"),
        ("sahi_coco.json", "images", "all"),
        ("latest.json", "photos", "test"),
        ("instances_default.json", ".", "all"),
        ("my_train_512_02.json", "images", "train"),
        ("coco-validation.json", "images", "val"),
    ],
)
def test_any_name(tmp_path, name, images, split):
    write(tmp_path, name=name, images=images)
    assert splits(tmp_path) == [split]
    report = check(tmp_path)
    assert (report.images, report.boxes, report.errors) == (4, 4, [])


def test_names_of_splits(tmp_path):
    for name in ("test_set.json", "coco_val.json", "mytrain.json"):
        write(tmp_path, name=name)
    (tmp_path / "package.json").write_text('{"images": 1}')
    assert splits(tmp_path) == ["train", "val", "test"]
    assert read(tmp_path, "val")[1].boxes == 4


@pytest.mark.parametrize("names", [("a.json", "b.json"), ("train_a.json", "train_b.json"), ("train_x.json", "y.json")])
def test_ambiguous_names_are_refused(tmp_path, names):
    for name in names:
        write(tmp_path, name=name)
    with pytest.raises(UserError, match=f"several COCO files .{', '.join(names)}"):
        splits(tmp_path)
    assert len(read(tmp_path / names[0])[0]) == 4


def test_resource_forks_are_left_out(tmp_path):
    write(tmp_path, name="annotations/instances_train2017.json", images="train2017")
    (tmp_path / "annotations/._instances_train2017.json").write_bytes(b"fork")
    (tmp_path / "._result.json").write_bytes(b"fork")
    assert splits(tmp_path) == ["train2017"]
    report = check(tmp_path)
    assert report.boxes == 4
    assert "1 file ._*.json is a resource fork of macOS: left out" in report.notes


@pytest.fixture
def with_image_list(tmp_path):
    write(tmp_path, name="annotations/instances_train2017.json", images="train2017")
    content = records()
    del content["annotations"]
    (tmp_path / "annotations/image_info_test-dev2017.json").write_text(json.dumps(content))
    return tmp_path


def test_image_list_without_annotations(with_image_list):
    assert splits(with_image_list) == ["train2017"]  # its images are not there
    path = with_image_list / "annotations/image_info_test-dev2017.json"
    write_images(with_image_list / "test2017")
    assert splits(with_image_list) == ["train2017", "test-dev2017"]
    for data, split in ((with_image_list, "test-dev2017"), (with_image_list, "test-dev"), (path, "val")):
        dataset, report = read(data, split, training=False)
        assert (len(dataset), report.boxes, report.errors) == (4, 0, [])
        assert any("no annotations: a list of images" in note for note in report.notes)
    assert not check(with_image_list).errors


def test_results_of_an_image_list(with_image_list, tmp_path):
    from libradet.api import evaluate
    from tests.helpers.fake_detectors import GroundTruthDetector

    write_images(with_image_list / "test2017")
    truth, _ = read(with_image_list, "train")
    path = tmp_path / "results.json"
    metrics = evaluate(GroundTruthDetector(truth), with_image_list, "test-dev", coco_results=path, num_workers=0)
    assert {r["image_id"] for r in json.loads(path.read_text())} == {10, 11, 12}
    assert metrics["AP"] is None
    assert metrics["notes"][-1] == "No ground truth in 4 images: AP and AR are undefined."


def test_check_of_an_image_list_is_an_error_for_training(with_image_list, capsys):
    write_images(with_image_list / "test2017")
    path = with_image_list / "annotations/image_info_test-dev2017.json"
    assert main(["data", "check", str(path)]) == 2
    assert "there are no boxes to train on" in " ".join(capsys.readouterr().out.split())
