"""supervision's datasets, in and out: the same images, boxes, labels and masks."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO

from libradet.data.read import check, read
from libradet.data.records import Dataset
from libradet.data.segmentations import segmentation_to_json
from libradet.data.synthesis.synthetic import synthesize
from libradet.errors import UserError
from libradet.interop.supervision import from_supervision, to_supervision, write_folder
from libradet.utils.quiet_supervision import supervision as sv
from tests.helpers.data_building import records, sample_image, write


def truth(dataset: Dataset, areas: bool = True) -> list[tuple]:
    """All that a detector learns from and is judged by, to the bit."""
    return [
        (
            p.path.absolute(),
            (p.width, p.height),
            p.boxes.tolist(),
            [dataset.class_names[label] for label in p.labels],
            p.labels.tolist(),
            p.crowd.tolist(),
            p.area.tolist() if areas else None,
            [None if s is None else segmentation_to_json(s) for s in p.segmentations or ()],
        )
        for p in dataset.images
    ]


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> Dataset:
    root = tmp_path_factory.mktemp("supervision") / "data"
    synthesize(root, train=6, val=1, size=(96, 80), classes=3)
    return read(root, "train")[0]


@pytest.fixture(scope="module")
def coco(shared_data) -> Dataset:
    return read(shared_data / "coco_cc", "val")[0]


@pytest.fixture(params=["synthetic", "coco"])
def dataset(request) -> Dataset:
    return request.getfixturevalue(request.param)


def test_round_trip(dataset):
    there, _ = to_supervision(dataset)
    back, report = from_supervision(there)
    assert sum(len(p.labels) for p in dataset.images) > 10
    assert truth(back) == truth(dataset)
    assert back.class_names == dataset.class_names
    assert report.skipped == []


def test_equals_supervisions_own_reader(coco, shared_data):
    root = shared_data / "coco_cc"
    theirs = sv.DetectionDataset.from_coco(str(root / "images"), str(root / "val.json"))
    ours, _ = to_supervision(coco)
    assert ours.classes == theirs.classes
    for path, own in ours.annotations.items():
        other = theirs.annotations[str(Path(path).resolve())]
        # A crop of a pixel at the border is all that the checks change.
        np.testing.assert_allclose(own.xyxy, other.xyxy, atol=1)
        for key in ("iscrowd", "area", "class_name") if len(other) else ():
            assert np.array_equal(own.data[key], other.data[key]), key
        assert np.array_equal(own.class_id, other.class_id)
    back, _ = from_supervision(theirs)
    assert [p.labels.tolist() for p in back.images] == [p.labels.tolist() for p in coco.images]
    assert [p.crowd.tolist() for p in back.images] == [p.crowd.tolist() for p in coco.images]


def test_files_written_by_supervision(dataset, tmp_path):
    to_supervision(dataset)[0].as_coco(str(tmp_path / "images"), str(tmp_path / "annotations.json"))
    back, _ = read(tmp_path, training=False)
    for own, other in zip(truth(dataset), truth(back), strict=True):
        assert own[1] == other[1]
        # It writes widths and heights as float32.
        np.testing.assert_allclose(own[2], other[2], atol=1e-4)
        assert own[3:] == other[3:]


def test_rasterized_masks_equal_pycocotools(coco, shared_data):
    coco = replace(coco, images=coco.images[:15])
    there, lost = to_supervision(coco, masks=True)
    api = COCO(str(shared_data / "coco_cc" / "val.json"))
    polygons = 0
    for p in coco.images:
        masks = there.annotations[str(p.path)].mask
        assert masks.shape == (len(p.labels), p.height, p.width)
        for mask, number in zip(masks, p.annotation_ids.tolist(), strict=True):
            assert np.array_equal(mask, api.annToMask(api.anns[number]).astype(bool))
            polygons += isinstance(api.anns[number]["segmentation"], list)
    assert f"{polygons} polygons are rasterized" in lost
    back, _ = from_supervision(there)
    again, _ = to_supervision(back, masks=True)
    assert all(np.array_equal(again.annotations[k].mask, d.mask) for k, d in there.annotations.items())


def test_crowd_regions_are_reported(coco):
    crowd = [f"{p.path.name}: {i}" for p in coco.images for i in p.annotation_ids[p.crowd]]
    assert len(crowd) == 8
    there, lost = to_supervision(coco)
    assert [line for line in lost if line.startswith(f"8 crowd regions ({crowd[0]}, ")]
    assert sum(int(d.data["iscrowd"].sum()) for d in there.annotations.values()) == 8
    _, report = from_supervision(there)
    assert [note for note in report.notes if note.startswith("8 crowd regions")]


def test_lost_ids_are_reported(tmp_path):
    dataset, _ = read(write(tmp_path))
    _, lost = to_supervision(dataset)
    assert [line.split(" are ")[0].split(" become ")[0] for line in lost] == [
        "category ids (1, 7, 9)",
        "ids of images",
        "ids of objects",
    ]
    again, _ = from_supervision(to_supervision(dataset)[0])
    assert to_supervision(again)[1] == []


BOX = st.tuples(*[st.floats(0, 50, width=32)] * 2, *[st.floats(2, 13, width=32)] * 2)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("one") / "p.png"
    sample_image(64, 64).save(path)
    return path


@given(st.lists(st.tuples(BOX, st.integers(0, 2), st.booleans()), max_size=6, unique_by=lambda row: row[0]))
def test_boxes_are_exact(path, rows):
    xyxy = np.array([(x, y, x + w, y + h) for (x, y, w, h), _, _ in rows], np.float32).reshape(-1, 4)
    labels, crowd = np.array([r[1] for r in rows], int), np.array([r[2] for r in rows], int)
    found = sv.Detections(xyxy, class_id=labels, data={"iscrowd": crowd})
    dataset, _ = from_supervision(sv.DetectionDataset(["a", "b", "c"], [str(path)], {str(path): found}), training=False)
    one = dataset.images[0]
    assert np.array_equal(one.boxes, xyxy)
    assert np.array_equal(one.labels, labels)
    assert one.crowd.tolist() == [bool(c) for c in crowd]


def one_box(path: Path, **fields) -> sv.DetectionDataset:
    fields = {"class_id": np.array([0])} | fields
    found = sv.Detections(np.array([[1.0, 2, 20, 30]], np.float32), **fields)
    return sv.DetectionDataset(["cat", "dog"], [str(path)], {str(path): found})


def test_rasterized_masks_of_supervision(tmp_path):
    sample_image(64, 48).save(tmp_path / "p.png")
    mask = np.zeros((1, 48, 64), bool)
    mask[0, 5:9, 3:30:2] = True
    dataset, _ = from_supervision(one_box(tmp_path / "p.png", mask=mask))
    again, _ = to_supervision(dataset, masks=True)
    assert np.array_equal(again.annotations[str(tmp_path / "p.png")].mask, mask)
    bare, _ = from_supervision(one_box(tmp_path / "p.png", mask=np.zeros_like(mask)))
    assert bare.images[0].segmentations == [None], "a mask without a pixel is none"


def test_invalid_datasets_are_refused(tmp_path):
    sample_image(64, 48).save(tmp_path / "p.png")
    with pytest.raises(UserError, match=r"p\.png: its boxes have no class_id"):
        from_supervision(one_box(tmp_path / "p.png", class_id=None))
    with pytest.raises(UserError, match=r"image files are missing.*q\.png"):
        from_supervision(one_box(tmp_path / "q.png"))
    twice = records()
    twice["images"][1]["file_name"] = "p0.png"
    dataset, _ = read(write(tmp_path / "twice", twice), strict=False)
    with pytest.raises(UserError, match=r"1 image is listed twice.*p0\.png"):
        to_supervision(dataset)


def test_written_folder_can_be_trained_on(synthetic, tmp_path, monkeypatch):
    whole, _ = to_supervision(synthetic)
    train, val = whole.split(0.5, random_state=1)
    monkeypatch.chdir(synthetic.root)
    train.image_paths = [str(Path(path).relative_to(synthetic.root)) for path in train.image_paths]
    train.annotations = {str(Path(k).relative_to(synthetic.root)): d for k, d in train.annotations.items()}
    report = write_folder(tmp_path / "deep" / "data", train=train, val=val)
    assert report.images == len(synthetic)
    assert sorted(p.name for p in (tmp_path / "deep" / "data").iterdir()) == ["train.json", "val.json"]
    monkeypatch.chdir(tmp_path)
    assert check(tmp_path / "deep" / "data").errors == []
    found = [read(tmp_path / "deep" / "data", split)[0] for split in ("train", "val")]
    assert sorted(row for dataset in found for row in truth(dataset)) == sorted(truth(synthetic))


def test_folders_are_written_atomically(tmp_path):
    sample_image(64, 48).save(tmp_path / "p.png")
    good, bad = one_box(tmp_path / "p.png"), one_box(tmp_path / "q.png")
    with pytest.raises(UserError, match="missing"):
        write_folder(tmp_path / "data", train=good, val=bad)
    assert not (tmp_path / "data").exists()
    with pytest.raises(UserError, match="no split to write"):
        write_folder(tmp_path / "data")
    other = sv.DetectionDataset(["dog", "cat"], good.image_paths, good.annotations)
    with pytest.raises(UserError, match="disagree"):
        write_folder(tmp_path / "data", train=good, val=other)
    write_folder(tmp_path / "data", train=good)
    assert json.loads((tmp_path / "data" / "train.json").read_text())["annotations"][0]["bbox"] == [1, 2, 19, 28]
    with pytest.raises(UserError, match="already exists"):
        write_folder(tmp_path / "data", train=good)
