"""Detection of dataset formats and choice of splits."""

import json

import pytest
from PIL import Image

from libradet.data.read import check, read, splits
from libradet.errors import UserError
from tests.helpers.data_building import write


def test_unsupported_format_is_refused(tmp_path):
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(UserError, match=r"(?s)not in a supported dataset format.*train.json.*data\.yaml.*Annotations"):
        read(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (
            "data.yaml",
            "names: [ball]\ntrain: images\n",
            "is a YAML file, and a dataset is named by its folder: name DIR.",
        ),
        ("images/a.png", "", "is an image, and a dataset is named by its folder: name DIR."),
        ("train/images/a.JPG", "", "is an image, .* name DIR."),
        ("labels/a.txt", "", "is a list of images, .* name DIR."),
        ("annotations.xml", "", "is an XML file, .* name DIR."),
        ("dataset.zip", "", "is an archive, .* extract it, and name the folder with the annotation files."),
        (
            "other.yaml",
            "path: images\nnames: [ball]\ntrain: a\n",
            "copy it to DIR/images/data.yaml, and name DIR/images.",
        ),
        (
            "other.yaml",
            "path: absent\nnames: [ball]\ntrain: a\n",
            "put it in the place of DIR/data.yaml, and name DIR.",
        ),
        ("other.yaml", "max_epochs: 3\n", "is a YAML file, .* name DIR."),
        ("elsewhere/notes.md", "", "is a file, .* name the one with images and annotations"),
    ],
)
def test_a_file_in_place_of_a_folder(file, content, words, tmp_path):
    (tmp_path / "data.yaml").write_text("names: [ball]\ntrain: images\n")
    (tmp_path / "images").mkdir()
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    with pytest.raises(UserError, match=f"^{tmp_path / file}: .*{words.replace('DIR', str(tmp_path))}"):
        read(path)


def test_an_empty_name_is_not_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path, name="train.json"))
    assert splits(".") == ["train"]
    for function in (splits, read, check):
        with pytest.raises(UserError, match="data is missing: name the folder of a dataset"):
            function("")


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
