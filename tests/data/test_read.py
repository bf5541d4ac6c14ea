"""Reading of real and of damaged datasets, against pycocotools and expected outcomes."""

import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from libradet.data.formats.coco import to_coco
from libradet.data.loader import make_loader
from libradet.data.read import check, read
from libradet.errors import UserError
from tests.helpers.dirty_datasets import DIRTY_CASES


@pytest.mark.parametrize("name", ["bccd", "deeppcb", "coco_cc"])
def test_equals_what_pycocotools_reads(shared_data, name):
    dataset, _ = read(shared_data / name, "val")
    theirs = COCO(shared_data / name / "val.json")
    assert [p.id for p in dataset.images] == theirs.getImgIds()
    assert dataset.category_ids == sorted(theirs.getCatIds())
    assert dataset.class_names == [c["name"] for c in theirs.loadCats(sorted(theirs.getCatIds()))]
    for image in dataset.images:
        annotations = theirs.loadAnns(image.annotation_ids.tolist())
        assert sorted(image.annotation_ids) == sorted(theirs.getAnnIds(image.id))
        boxes = np.array([a["bbox"] for a in annotations]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        # float32 pixels, and some official boxes leave their image by a hundredth of a pixel.
        np.testing.assert_allclose(image.boxes, boxes, atol=0.02)
        assert [dataset.category_ids[k] for k in image.labels] == [a["category_id"] for a in annotations]
        assert image.crowd.tolist() == [bool(a["iscrowd"]) for a in annotations]
        np.testing.assert_allclose(image.area, [a["area"] for a in annotations], rtol=1e-6)


def test_round_trip_through_json(shared_data, tmp_path):
    import json

    source = shared_data / "coco_cc"
    before, _ = read(source, "val")
    (tmp_path / "annotations.json").write_text(json.dumps(to_coco(before)))
    (tmp_path / "images").symlink_to(source / "images")
    after, report = read(tmp_path, "val")
    assert report.skipped + report.warnings == []
    for a, b in zip(before.images, after.images, strict=True):
        for name in ("boxes", "labels", "crowd", "area", "annotation_ids"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        for x, y in zip(a.segmentations, b.segmentations, strict=True):
            assert isinstance(x, list) == isinstance(y, list)
            if isinstance(x, list):
                assert all((p == q).all() for p, q in zip(x, y, strict=True))


@pytest.fixture(scope="module")
def expected(shared_data):
    found = json.loads((shared_data / "dirty" / "expected.json").read_text())
    assert sorted(found) == sorted(DIRTY_CASES), "a case was added: add it to DIRTY_CASES"
    return found


@pytest.mark.parametrize("case", DIRTY_CASES)
def test_outcome_of_dirty_datasets(shared_data, expected, case):
    wanted = expected[case]
    report = check(shared_data / "dirty" / case)
    outcome = wanted["outcome"]
    assert bool(report.errors) == (outcome == "error")
    if wanted["kept"]:
        assert (report.images, report.boxes) == (wanted["kept"]["images"], wanted["kept"]["annotations"])
        assert sum(report.classes.values()) == report.boxes == sum(report.sizes.values())
    if outcome == "accept":
        assert not report.skipped
        assert not report.warnings
    if outcome == "skip_with_warning":
        assert sum(finding["count"] for finding in report.skipped) == 3
        assert all("cells_4.jpg" in example for finding in report.skipped for example in finding["examples"])
    if outcome == "accept_with_warning":
        assert report.warnings
    json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("02_missing_image_file", ["cells_4.jpg", "images"]),
        ("08_unknown_category", ["99", "1048", "1049"]),
        ("12_empty_annotations", ["no boxes to train on"]),
        ("40_truncated_json", ["annotations.json", "line 1, column 4001"]),
    ],
)
def test_error_is_one_line_that_names_the_cause(shared_data, case, names):
    with pytest.raises(UserError) as raised:
        read(shared_data / "dirty" / case, "train")
    message = str(raised.value)
    assert message.count("\n") == 0
    assert all(name in message for name in names)


def test_missing_images_can_be_skipped(shared_data):
    dataset, report = read(shared_data / "dirty" / "02_missing_image_file", skip_broken=True)
    assert len(dataset) == 3
    assert report.warnings
    assert not report.errors


def test_dataset_without_ground_truth_can_be_read_for_evaluation(shared_data):
    dataset, report = read(shared_data / "dirty" / "12_empty_annotations", "val", training=False)
    assert len(dataset) == 4
    assert "no ground truth" in report.warnings[0]


@pytest.mark.parametrize("case", ["01_clean_control", "22_noncontiguous_category_ids", "33_missing_optional_fields"])
def test_ground_truth_as_detections_has_ap_1(shared_data, case):
    truth = to_coco(read(shared_data / "dirty" / case)[0])
    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    results = coco.loadRes([a | {"score": 1.0} for a in truth["annotations"]])
    evaluation = COCOeval(coco, results, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_own_category_ids_are_kept(shared_data):
    dataset, _ = read(shared_data / "dirty" / "22_noncontiguous_category_ids")
    assert dataset.category_ids == [3, 17, 90]
    assert dataset.class_names == ["RBC", "WBC", "Platelets"]
    control, _ = read(shared_data / "dirty" / "01_clean_control")
    for image, same in zip(dataset.images, control.images, strict=True):
        np.testing.assert_array_equal(image.labels, same.labels)


def test_rotated_image_equals_the_upright_one(shared_data):
    """An image stored upright and rotated gives the same pixels and boxes."""
    batches = []
    for case in ("01_clean_control", "19_exif_rotated"):
        dataset, _ = read(shared_data / "dirty" / case)
        loader = make_loader(dataset, size=(240, 400), batch_size=4, training=False, size_divisible=16)
        batches.append(next(iter(loader)))
    straight, turned = batches
    assert straight.sizes.tolist() == turned.sizes.tolist()
    assert straight.boxes.equal(turned.boxes)
    # Encoded again as a rotated JPEG, so equal up to compression.
    difference = (straight.images[3].float() - turned.images[3].float()).abs().mean()
    assert difference < 4


def test_crowd_region_is_kept(shared_data):
    dataset, _ = read(shared_data / "dirty" / "24_iscrowd_rle")
    assert sum(int(p.crowd.sum()) for p in dataset.images) == 1
    batch = next(iter(make_loader(dataset, size=(240, 400), batch_size=4, training=True, size_divisible=16)))
    assert batch.crowd.sum() == 1
    assert (batch.labels[batch.crowd] >= 0).all()
