"""CVAT for images 1.1."""

import numpy as np
import pytest
from PIL import Image

from libradet.data.read import check, read, splits

META = "<meta><job><labels><label><name>dog</name></label><label><name>cat</name></label></labels></job></meta>"
SHAPES = """
<box label="cat" occluded="0" xtl="10.00" ytl="20.00" xbr="40.50" ybr="60.25" z_order="0"></box>
<polygon label="dog" points="50.00,10.00;90.00,10.00;90.00,30.00" z_order="0"></polygon>
<points label="dog" points="5,5"></points>
<tag label="dog"></tag>
"""


@pytest.fixture
def make(tmp_path):
    """Return a function that writes a dataset of one image."""

    def make(shapes=SHAPES, meta=META, images=('name="s/a.jpg"',)):
        for image in images:
            path = tmp_path / "images" / image.split('"')[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (100, 80)).save(path)
        nodes = "".join(f'<image id="{i}" {n} width="100" height="80">{shapes}</image>' for i, n in enumerate(images))
        (tmp_path / "annotations.xml").write_text(f"<annotations><version>1.1</version>{meta}{nodes}</annotations>")
        return tmp_path

    return make


def test_boxes_and_polygons(make):
    dataset, report = read(make())
    (image,) = dataset.images
    assert dataset.class_names == ["dog", "cat"]
    np.testing.assert_allclose(image.boxes, [[10, 20, 40.5, 60.25], [50, 10, 90, 30]], atol=1e-4)
    assert image.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(image.segmentations[1][0], [50, 10, 90, 10, 90, 30])
    assert report.notes == ["1 points elements have no box: not read", "1 tag elements have no box: not read"]


def test_box_around_a_rotated_one(make):
    root = make('<box label="cat" xtl="40" ytl="30" xbr="60" ybr="40" rotation="90.0"></box>')
    np.testing.assert_allclose(read(root)[0].images[0].boxes, [[45, 25, 55, 45]], atol=1e-4)
    root = make('<box label="cat" xtl="40" ytl="30" xbr="60" ybr="50" rotation="45.0"></box>')
    half = 10 * np.sqrt(2)
    np.testing.assert_allclose(read(root)[0].images[0].boxes, [[50 - half, 40 - half, 50 + half, 40 + half]], atol=1e-4)


def test_subsets_are_splits(make):
    root = make(images=('name="a.jpg" subset="Train"', 'name="b.jpg" subset="Validation"'))
    assert splits(root) == ["Train", "Validation"]
    assert [image.path.name for image in read(root, "val")[0].images] == ["b.jpg"]


def test_crowd(make):
    box = '<box label="cat" xtl="1" ytl="2" xbr="30" ybr="40"><attribute name="is_crowd">true</attribute></box>'
    assert read(make(box), training=False)[0].images[0].crowd.tolist() == [True]


@pytest.mark.parametrize(
    ("shapes", "meta", "message"),
    [
        (SHAPES, "", "a CVAT file without labels"),
        (SHAPES, f'{META}<track id="0" label="cat"></track>', "CVAT's format for video"),
        ('<box label="bird" xtl="1" ytl="2" xbr="30" ybr="40"></box>', META, "bird"),
        ('<box label="cat" xtl="x" ytl="2" xbr="30" ybr="40"></box>', META, "a.jpg"),
    ],
)
def test_invalid_files_are_refused_or_reported(make, shapes, meta, message):
    report = check(make(shapes, meta))
    assert message in f"{report.errors} {report.skipped} {report.warnings}"
    assert report.errors
