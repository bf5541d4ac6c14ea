"""CVAT for images 1.1."""

import numpy as np
import pytest
from PIL import Image

from libradet.data.masks import decode_masks
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


MASK = '<mask label="cat" rle="{}" left="10" top="20" width="4" height="3"></mask>'


def test_masks(make):
    (image,) = read(make(MASK.format("1, 2, 2, 2, 5")))[0].images
    assert image.boxes.tolist() == [[11, 20, 13, 22]]
    mask = decode_masks(image, 80, 100)[0].numpy()
    assert (mask[20:22, 11:13].all(), mask.sum()) == (True, 4)


def test_mask_as_large_as_the_image(make):
    """Datumaro writes masks so."""
    shape = '<mask label="cat" rle="1031, 14, 6955" left="0" top="0" width="100" height="80"></mask>'
    assert read(make(shape))[0].images[0].boxes.tolist() == [[31, 10, 45, 11]]


@pytest.mark.parametrize("runs", ["1, 2", "", "a, 2", "12", "-1, 13", "99999999999999999999"])
def test_invalid_masks_are_counted(make, runs):
    box = '<box label="cat" xtl="1" ytl="2" xbr="30" ybr="40"></box>'
    report = read(make(MASK.format(runs) + box))[1]
    assert (report.boxes, report.skipped[0]["count"]) == (1, 1)
    assert "annotations.xml, image s/a.jpg, mask 1" in report.skipped[0]["examples"]


def test_ids_of_images_are_kept(make):
    root = make(images=('name="a.jpg"', 'name="b.jpg"'))
    file = root / "annotations.xml"
    text = file.read_text()
    file.write_text(text.replace('id="0"', 'id="41"').replace('id="1"', 'id="7"'))
    assert [image.id for image in read(root)[0].images] == [41, 7]
    file.write_text(text.replace('id="0"', 'id="1"'))
    assert [image.id for image in read(root)[0].images] == [1, 2]


def test_files_of_other_names_are_splits(make):
    """Datumaro writes a file for each subset."""
    root = make(images=('name="a.jpg"',))
    for split in ("val", "train"):
        (root / f"{split}.xml").write_text((root / "annotations.xml").read_text())
    (root / "annotations.xml").unlink()
    assert splits(root) == ["train", "val"]
    assert len(read(root, "val")[0].images[0].boxes) == 2
    (root / "val.xml").unlink()
    (root / "train.xml").rename(root / "default.xml")
    assert splits(root) == ["all"]


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
