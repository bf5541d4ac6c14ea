"""COCO format: folder layouts, and files that are not valid COCO."""

import pytest

from libradet.data.read import check, read, splits
from libradet.errors import UserError
from tests.helpers.data_building import essence, records, write


@pytest.mark.parametrize("folder", ["images", "images/train", "train", "."])
def test_train_and_val(tmp_path, reference, folder):
    root = tmp_path / "set"
    write(root, name="train.json", images=folder)
    write(root, name="val.json", images=folder.replace("train", "val"))
    assert splits(root) == ["train", "val"]
    assert essence(root) == essence(root, "train") == essence(root, "val") == reference


def test_single_file_serves_as_any_split(tmp_path, reference):
    root = write(tmp_path / "set")
    assert splits(root) == ["all"]
    assert essence(root) == essence(root, "train") == essence(root, "val") == reference
    assert essence(root / "annotations.json") == reference


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_coco(tmp_path, reference, year):
    root = tmp_path / "coco"
    for split in ("train", "val"):
        write(root, name=f"annotations/instances_{split}{year}.json", images=f"{split}{year}")
    write(root, [], name=f"annotations/captions_train{year}.json", images=f"train{year}")
    assert splits(root) == [f"train{year}", f"val{year}"]
    assert essence(root) == essence(root, "train") == essence(root, f"val{year}") == essence(root, "val") == reference
    assert essence(root / "annotations" / f"instances_val{year}.json") == reference


def test_coco_file_of_any_name_with_one_image_folder(tmp_path, reference):
    root = write(tmp_path / "set", name="annotations/instances_default.json", images="images")
    assert essence(root) == essence(root, "val") == reference


def test_roboflow(tmp_path, reference):
    root = tmp_path / "set"
    content = records()
    for category in content["categories"]:
        category["supercategory"] = "animals"
    content["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
    for split in ("train", "valid", "test"):
        write(root, content, name=f"{split}/_annotations.coco.json", images=split)
    assert splits(root) == ["train", "valid", "test"]
    assert essence(root) == essence(root, "val") == essence(root, "valid") == essence(root, "test") == reference
    assert essence(root / "valid") == essence(root / "valid/_annotations.coco.json") == reference, "one split alone"


def test_roboflow_category_with_boxes_is_a_class(tmp_path):
    content = records()
    content["categories"] = [{"id": i, "name": f"c{i}", "supercategory": "none"} for i in (1, 7, 9)]
    dataset, _ = read(write(tmp_path, content, name="train/_annotations.coco.json", images="train"))
    assert dataset.class_names == ["c1", "c7", "c9"]


@pytest.mark.parametrize(
    "text",
    [
        '{"images": [' + "9" * 5000 + "]}",
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"images": "\udcff"}',
    ],
)
def test_json_beyond_limits_of_python_is_refused(tmp_path, text):
    (tmp_path / "annotations.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"annotations\.json: not valid JSON"):
        read(tmp_path)


def test_error_about_thousands_of_classes_is_short(tmp_path):
    write(tmp_path, records() | {"categories": [{"name": "a"}] * 4000})
    with pytest.raises(UserError) as refused:
        read(tmp_path)
    assert "categories[0]" in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "the file is empty"),
        (b"  \n", "the file is empty"),
        (b"[1, 2]", "holds detection results"),
        (b'"x"', "holds a single value"),
        (b'{"images": [}', "line 1, column 13"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
    ],
)
def test_files_in_another_format_are_refused(tmp_path, text, words):
    write(tmp_path)
    (tmp_path / "annotations.json").write_bytes(text)
    report = check(tmp_path)
    assert len(report.errors) == 1
    assert words in report.errors[0]
    assert str(tmp_path / "annotations.json") in report.errors[0]


def test_byte_order_mark_is_ignored(tmp_path):
    write(tmp_path)
    path = tmp_path / "annotations.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert check(tmp_path).errors == []
