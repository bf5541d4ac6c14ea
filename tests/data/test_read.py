"""What was read can be written again, and is what pycocotools reads."""

import numpy as np
import pytest
from pycocotools.coco import COCO

from libradet.data.read import read, to_coco


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


def test_survives_writing_and_reading(shared_data, tmp_path):
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
