"""Detection of dataset formats and choice of splits."""

import json

import pytest
from PIL import Image

from libradet.data.read import read, splits
from libradet.errors import UserError
from tests.helpers.data_building import write


def test_unsupported_format_is_refused(tmp_path):
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(UserError, match=r"(?s)not in a supported dataset format.*train.json.*data\.yaml.*Annotations"):
        read(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="neither a folder nor a JSON"):
        read(tmp_path / "readme.txt")


def test_missing_split_is_refused(tmp_path):
    write(tmp_path, name="train.json")
    with pytest.raises(UserError, match="no split 'val'; choose one of train"):
        read(tmp_path, "val")


def test_real_sets(shared_data):
    for name in ("bccd", "deeppcb", "coco_cc"):
        assert splits(shared_data / name) == ["train", "val"]
        dataset, report = read(shared_data / name, "train")
        content = json.loads((shared_data / name / "train.json").read_text())
        assert report.skipped + report.warnings + report.errors == []
        assert (report.images, report.boxes) == (len(content["images"]), len(content["annotations"]))
        assert len(dataset.class_names) == len(content["categories"])


def test_unused_annotation_files_are_reported(tmp_path):
    content = {
        "images": [{"id": 7, "file_name": "a.png"}],
        "categories": [{"id": 3, "name": "ball"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 10, 12]}],
    }
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "train.json").write_text(json.dumps(content))
    assert not any("not used" in note for note in read(tmp_path, "train")[1].notes)
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    (tmp_path / "data.yaml").write_text("names: [ball]\ntrain: images\n")
    notes = read(tmp_path, "train")[1].notes
    assert any("annotations.json" in note and "data.yaml" in note and "not used" in note for note in notes)
