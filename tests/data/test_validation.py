"""Validation: every kind of damage is reported, repaired, skipped or refused."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from libradet.data.formats.coco import to_coco
from libradet.data.proposals.proposal_file import ImageProposals, read_proposals, write_proposals
from libradet.data.read import check, read
from libradet.data.records import normalize_id
from libradet.data.validation.report import Report, merge
from libradet.errors import UserError
from libradet.utils.atomic_io import atomic_json_list, write_json
from tests.helpers.data_building import SIZES, damaged, records, sample_image, write


def examine(root, damage) -> Report:
    return check(damaged(root, damage))


def put(kind, row, **fields):
    """Return a damage: changed fields of one record."""
    return lambda content: content[kind][row].update(fields)


def add(kind, *more):
    """Return a damage: additional records."""
    return lambda content: content[kind].extend(more)


def box(**fields):
    """Return a further, valid annotation, changed by ``fields``."""
    return {"id": 900, "image_id": 10, "category_id": 1, "bbox": [1, 2, 10, 12], "area": 120, "iscrowd": 0} | fields


def test_valid_dataset_has_no_findings(tmp_path):
    report = check(write(tmp_path))
    assert (report.images, report.boxes) == (4, 4)
    assert report.classes == {"cat": 2, "dog": 1, "hen": 1}
    assert report.skipped + report.warnings + report.errors == []
    assert report.notes == ["1 image has no box: background, where detections count as false positives"]


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (add("annotations", box(image_id=77)), "box of an image that is not listed"),
        (add("annotations", box(image_id=None)), "box of an image that is not listed"),
        (add("annotations", box(image_id=[1])), "box of an image that is not listed"),
        (add("annotations", box(bbox=[1, 2, 3])), "box is not four numbers"),
        (add("annotations", box(bbox=[1, 2, 3, 4, 5])), "box is not four numbers"),
        (add("annotations", box(bbox={"x": 1})), "box is not four numbers"),
        (add("annotations", box(bbox=None)), "box is not four numbers"),
        (add("annotations", box(bbox=["a", 1, 2, 3])), "box is not four numbers"),
        (add("annotations", box(bbox=[1, None, 2, 3])), "box with a NaN or infinite coordinate"),
        (add("annotations", box(bbox=[1, 2, -10, 12])), "box without area"),
        (add("annotations", box(bbox=[1, 2, float("nan"), 12])), "box with a NaN or infinite coordinate"),
        (add("annotations", box(bbox=[1, 2, "inf", 12])), "box with a NaN or infinite coordinate"),
        (add("annotations", box(bbox=[64, 2, 10, 12])), "box outside its image"),
        (add("annotations", box(bbox=[-30, -30, 10, 12])), "box outside its image"),
        (add("annotations", records()["annotations"][0]), "box listed twice"),
        (add("images", records()["images"][0]), "image listed twice"),
    ],
)
def test_damage_is_skipped_and_counted(tmp_path, damage, what):
    report = examine(tmp_path, damage)
    assert [(finding["reason"], finding["count"]) for finding in report.skipped] == [(what, 1)]
    assert (report.images, report.boxes, report.errors) == (4, 4, [])


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (put("images", 0, file_name="gone.png"), "1 of 4 image files are missing"),
        (put("images", 0, file_name=None), "1 image has no usable id or file_name: images[0]"),
        (put("images", 0, id=True), "1 image has no usable id or file_name: images[0]"),
        (put("images", 1, id=10), "image ids used for two images"),
        (put("images", 0, width=640, height=480), "p0.png is 64x48, annotated as 640x480"),
        (put("images", 0, width=48, height=64), "p0.png is 64x48, annotated as 48x64"),
        (put("annotations", 0, category_id=99), "'categories' does not list (99): annotation 100 in p0.png"),
        (put("annotations", 0, category_id=None), "'categories' does not list (None)"),
        (put("categories", 0, id=1), "category id 1 is both 'dog' and 'cat'"),
        (put("categories", 0, id=None), "categories without a usable id: categories[0] (id is missing)"),
        (lambda c: c["categories"].clear(), "'categories' is empty"),
        (lambda c: c.pop("categories"), "'categories' is missing"),
        (lambda c: c.update(images={}), "'images' is not a list"),
        (lambda c: c["images"].clear(), "there are no images"),
        (lambda c: [a.update(iscrowd=1) for a in c["annotations"]], "no boxes to train on"),
        (lambda c: [a.update(bbox=[0.2, 0.3, 0.4, 0.5]) for a in c["annotations"]], "fractions of the image"),
        (lambda c: [a.update(bbox=[30, 30, 44, 45]) for a in c["annotations"]], "x1, y1, x2, y2"),
    ],
)
def test_damage_is_refused(tmp_path, damage, text):
    report = examine(tmp_path, damage)
    assert any(text in error for error in report.errors), report.errors
    with pytest.raises(UserError):
        read(tmp_path)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (put("annotations", 0, bbox=[-5, 6, 25, 30]), "1 box exceeds the image: clipped"),
        (put("annotations", 1, id=100), "1 annotation ids are used again (100)"),
        (put("images", 0, width=65), "1 image differs by some pixels"),
        (put("categories", 0, name="cat"), "several categories share a name (cat)"),
        (put("images", 3, file_name="p0.png"), "listed under several ids (p0.png)"),
        (add("annotations", records()["annotations"][0] | {"id": 500}), "1 box has an exact copy"),
        (put("annotations", 0, segmentation=[[1, 2, 3]]), "1 segmentations cannot be used"),
        (put("annotations", 0, segmentation={"size": [9, 9], "counts": [81]}), "1 segmentations cannot be used"),
        (put("annotations", 0, segmentation={"size": [48, 64], "counts": [3]}), "1 segmentations cannot be used"),
    ],
)
def test_damage_is_repaired_with_a_warning(tmp_path, damage, text):
    report = examine(tmp_path, damage)
    assert any(text in warning for warning in report.warnings), report.warnings
    assert report.errors == []
    assert not report.skipped


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: [
            a.update(image_id=str(a["image_id"]), category_id=float(a["category_id"])) for a in c["annotations"]
        ],
        lambda c: [i.update(id=str(i["id"])) for i in c["images"]],
        lambda c: [k.update(id=str(k["id"])) for k in c["categories"]],
        lambda c: [a.update(bbox=[str(v) for v in a["bbox"]]) for a in c["annotations"]],
        lambda c: [a.pop("area") for a in c["annotations"]] + [a.pop("iscrowd") for a in c["annotations"]],
        lambda c: [a.update(area=float("nan"), iscrowd=None) for a in c["annotations"]],
        lambda c: [i.update(width=None, height=0) for i in c["images"]],
        lambda c: [i.update(width="64", height="48") for i in (c["images"][0], c["images"][3])],
        lambda c: [i.update(file_name="./images/" + i["file_name"]) for i in c["images"]],
        lambda c: [i.update(file_name="C:\\mine\\images\\" + i["file_name"].upper()) for i in c["images"]],
        lambda c: [i.update(file_name="/home/me/images/" + i["file_name"]) for i in c["images"]],
    ],
)
def test_unambiguous_records_are_normalized(tmp_path, damage):
    """Unusual but unambiguous records give exactly the same dataset."""
    valid, _ = read(write(tmp_path / "valid"))
    sloppy, report = read(damaged(tmp_path / "sloppy", damage))
    assert report.skipped + report.warnings == []
    assert [normalize_id(i) for i in sloppy.category_ids] == valid.category_ids
    for a, b in zip(sloppy.images, valid.images, strict=True):
        assert (a.path.name, a.width, a.height) == (b.path.name, b.width, b.height)
        assert normalize_id(a.id) == b.id
        for name in ("boxes", "labels", "crowd", "area", "annotation_ids"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_text_ids_are_kept(tmp_path):
    def damage(content):
        for image in content["images"]:
            image["id"] = f"img-{image['id']}"
        for annotation in content["annotations"]:
            annotation["image_id"] = f"img-{annotation['image_id']}"

    dataset, report = read(damaged(tmp_path, damage))
    assert [p.id for p in dataset.images] == ["img-10", "img-11", "img-12", "img-13"]
    assert any("id is text such as 'img-10' in 4 of images" in note for note in report.notes)
    assert report.boxes == 4


def test_missing_box_is_computed_from_the_segmentation(tmp_path):
    polygon = [2.0, 3.0, 12.0, 3.0, 12.0, 20.0, 2.0, 20.0]
    lengths = {"size": [48, 64], "counts": [48 * 10 + 5, 7, 41, 7, 48 * 53 - 12]}

    def damage(content):
        content["annotations"][0] |= {"bbox": None, "segmentation": [polygon]}
        content["annotations"][1] |= {"bbox": [], "segmentation": lengths}

    dataset, report = read(damaged(tmp_path, damage))
    assert dataset.images[0].boxes.tolist() == [[2, 3, 12, 20], [10, 5, 12, 12]]
    assert not report.skipped


def test_area_is_limited_to_the_clipped_box(tmp_path):
    def damage(content):
        content["annotations"][0] |= {"area": 123.5}
        content["annotations"][1] |= {"bbox": [54, 38, 20, 20], "area": 400}

    dataset, _ = read(damaged(tmp_path, damage))
    assert dataset.images[0].boxes[1].tolist() == [54, 38, 64, 48]
    assert dataset.images[0].area.tolist() == [123.5, 100.0]


@pytest.mark.parametrize("spoil", ["empty", "text", "half"])
def test_damaged_image_files(tmp_path, spoil):
    write(tmp_path)
    path = tmp_path / "images" / "p2.png"
    sample_image(300, 300).save(path)
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"not an image at all", "half": content[: len(content) // 2]}[spoil])
    report = check(tmp_path)
    assert any("p2.png" in error and "damaged" in error for error in report.errors)
    dataset, report = read(tmp_path, skip_broken=True)
    assert [p.path.name for p in dataset.images] == ["p0.png", "p1.png", "p3.png"]
    assert {finding["reason"]: finding["count"] for finding in report.skipped} == {
        "image file is damaged": 1,
        "box of a skipped image": 1,
    }


def test_all_missing_images_are_reported(tmp_path):
    content = records()
    content["images"] += [{"id": 1000 + i, "file_name": f"lost_{i}.png"} for i in range(15)]
    report = check(write(tmp_path, content))
    assert all(f"lost_{i}.png" in report.errors[0] for i in range(15))
    assert len(report.skipped[0]["examples"]) == 15


def test_boxes_on_unrotated_pixels(tmp_path):
    """The records give the stored size, so the EXIF rotation must not be applied to this image."""
    write(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    sample_image(*SIZES[0]).save(tmp_path / "images" / "p0.png", exif=exif)
    dataset, report = read(tmp_path)
    assert not dataset.images[0].apply_exif
    assert (dataset.images[0].width, dataset.images[0].height) == SIZES[0]
    assert "EXIF" in report.warnings[0]


def test_records_of_other_types_are_refused(tmp_path):
    report = check(write(tmp_path, {"images": [1, None, "x"], "annotations": [None, 3], "categories": ["cat", {}]}))
    assert report.errors
    json.dumps(report.to_json())


def test_inconsistent_splits(tmp_path):
    write(tmp_path, name="train.json")
    other = records()
    other["categories"][0]["name"] = "wolf"
    write(tmp_path, other, name="val.json")
    report = check(tmp_path)
    assert any("7 is 'dog' in train, 'wolf' in val" in error for error in report.errors)
    assert any("4 images are in train and in val" in warning for warning in report.warnings)
    assert (report.images, report.boxes) == (8, 8)


def test_render_contains_all_findings(tmp_path):
    from rich.console import Console

    report = examine(tmp_path, add("annotations", box(image_id=77, id="[red]x"), box(category_id=5)))
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report.render("[bold]title"))
    text = console.export_text()
    for part in (
        "[bold]title",
        "cat 2",
        "1 x box of an image that is not listed: annotation [red]x",
        "Training cannot",
    ):
        assert part in text


def test_numeric_ids_as_text_are_reported(tmp_path):
    content = {
        "images": [{"id": "7", "file_name": "a.png"}],
        "categories": [{"id": "3", "name": "ball"}],
        "annotations": [{"id": 1, "image_id": "7", "category_id": "3", "bbox": [1, 2, 10, 12]}],
    }
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    dataset, report = read(tmp_path, "train")
    assert dataset.images[0].labels.tolist() == [0]
    assert dataset.category_ids == ["3"]
    assert dataset.images[0].id == "7"
    notes = "\n".join(report.notes)
    assert "category_id is text such as '3' in 1 of annotations" in notes
    assert "image_id is text such as '7'" in notes
    for part, *keys in (("images", "id"), ("categories", "id"), ("annotations", "image_id", "category_id")):
        content[part][0] |= {key: int(content[part][0][key]) for key in keys}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    assert not any("is text" in note for note in read(tmp_path, "train")[1].notes)


EXTREME_VALUES = [
    10**400,
    -(10**400),
    2**64,
    1e300,
    "9" * 5000,
    "٣" * 30,
    float("inf"),
    float("nan"),
    "x" * 5000,
    [],
    {},
    5,
    True,
]


FIELDS = [
    *[("images", "id"), ("images", "width"), ("images", "file_name"), ("categories", "id"), ("categories", "name")],
    *[("annotations", key) for key in ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")],
]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", EXTREME_VALUES, ids=lambda v: str(v)[:8])
def test_extreme_values_in_any_field(tmp_path, field, value):
    """The value is refused, repaired or skipped and counted: no box is lost."""
    part, key = field

    def put(content):
        content[part][1][key] = value

    report = check(damaged(tmp_path, put))
    boxes = sum(s["count"] for s in report.skipped if s["reason"].startswith("box"))
    assert report.errors or report.boxes + boxes == 4
    assert all(len(text) < 3000 for text in report.errors + report.warnings)
    json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    "name", ["a/" * 300 + "x.png", "x" * 300 + "/y.png", "\x00.png", "a\x00/b.png", "\ud800/x.png"]
)
def test_invalid_file_names(tmp_path, name):
    def put(content):
        content["images"][0]["file_name"] = name

    report = check(damaged(tmp_path, put))
    assert "1 of 4 image files are" in report.errors[0]


def test_file_names_that_are_not_utf8(tmp_path, capsys):
    name = os.fsdecode(b"p\xff\xfe.png")

    def put(content):
        content["images"][0]["file_name"] = name
        content["annotations"][0]["bbox"] = [0, 0, 0, 0]

    root = damaged(tmp_path / "data", put)
    (root / "images" / "p0.png").rename(root / "images" / name)
    dataset, report = read(root)
    assert any(name in example for finding in report.skipped for example in finding["examples"])
    write_json(tmp_path / "written.json", to_coco(dataset))
    assert json.loads((tmp_path / "written.json").read_text())["images"][0]["file_name"] == name
    with atomic_json_list(tmp_path / "list.json") as add:
        add({"file_name": name})
    assert json.loads((tmp_path / "list.json").read_text()) == [{"file_name": name}]
    found = [ImageProposals(10, name, 64, 48, np.zeros((1, 4), np.float32), np.ones(1, np.float32))]
    write_proposals(tmp_path / "p.safetensors", found, "rpn")
    assert read_proposals(tmp_path / "p.safetensors").names == [name]


def test_what_several_splits_have_in_common_is_reported_once():
    train = Report(notes=["labels have keypoints", "2 images have no box"], warnings=["a", "a"])
    val = Report(notes=["labels have keypoints"], errors=["no boxes"])
    test = Report(notes=["1 image has no box", "labels have keypoints"], errors=["no boxes"])
    merged = merge({"train": train, "val": val, "test": test})
    assert merged.notes == [
        "train, val, test: labels have keypoints",
        "train: 2 images have no box",
        "test: 1 image has no box",
    ]
    assert merged.warnings == ["train: a"]
    assert merged.errors == ["val, test: no boxes"]
