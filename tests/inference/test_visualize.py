"""Drawing of detections and of grids."""

import numpy as np
import pytest
from PIL import Image

from libradet.inference.visualize import GridRow, class_color, draw_detections, draw_grid, save_image
from libradet.utils.palette import OKABE_ITO
from libradet.utils.quiet_supervision import supervision as sv


def rgb(color):
    return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))


def detections(boxes, labels, scores=None, names=("cat", "dog", "bird")):
    return sv.Detections(
        xyxy=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        class_id=np.array(labels, dtype=int),
        confidence=None if scores is None else np.array(scores, dtype=np.float32),
        data={"class_name": np.array(names)[np.array(labels, dtype=int)]},
    )


def near(pixels, x, y, color, reach):
    patch = pixels[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1].reshape(-1, 3)
    return (np.abs(patch.astype(int) - rgb(color)).max(1) < 4).any()


@pytest.mark.parametrize("width", [640, 1000, 3000])
def test_boxes_are_drawn_in_the_color_of_their_class(width):
    image = np.full((width * 3 // 4, width, 3), 128, np.uint8)
    before = image.copy()
    box = (width // 5, width // 4, width // 2, width * 3 // 5)
    drawn = draw_detections(image, detections([box], [2], [0.9]))
    assert drawn.shape == image.shape
    np.testing.assert_array_equal(image, before)
    reach = max(2, width // 240)
    x0, y0, x1, y1 = box
    for x, y in [((x0 + x1) // 2, y1), (x0, (y0 + y1) // 2), (x1, (y0 + y1) // 2)]:
        assert near(drawn, x, y, class_color(2), reach)
    assert (drawn[(y0 + y1) // 2, (x0 + x1) // 2] == 128).all()
    assert (drawn[-1, -1] == 128).all()


def test_labels_scale_with_the_image():
    def label_rows(side):
        drawn = draw_detections(
            np.zeros((side, side, 3), np.uint8), detections([(side // 4, side // 2, side // 2, side - 9)], [0])
        )
        above = drawn[: side // 2 - side // 100, side // 4 + side // 50]
        return (np.abs(above.astype(int) - rgb(class_color(0))).max(1) < 4).sum()

    assert 10 <= label_rows(700) < label_rows(2000) / 2


def test_small_images_are_enlarged():
    drawn = draw_detections(np.zeros((64, 96, 3), np.uint8), detections([(10, 20, 60, 50)], [1], [0.5]))
    assert drawn.shape == (64 * 7, 96 * 7, 3)
    assert near(drawn, 35 * 7, 50 * 7, class_color(1), 3)


def test_labels_at_the_border_stay_inside():
    color = class_color(0)
    drawn = draw_detections(np.zeros((640, 640, 3), np.uint8), detections([(300, 0, 500, 200)], [0], [0.5]))
    covered = (np.abs(drawn[:30].astype(int) - rgb(color)).max(2) < 4).sum()
    # A label is a filled bar of dozens by a dozen pixels; a cut one leaves only the box's line.
    assert covered > 600


def test_no_detections_change_nothing():
    image = np.random.default_rng(0).integers(0, 256, (640, 700, 3), dtype=np.uint8)
    np.testing.assert_array_equal(draw_detections(image, detections([], [], [])), image)


def test_higher_scores_are_drawn_on_top():
    image = np.zeros((640, 640, 3), np.uint8)
    box = (200, 200, 400, 400)
    for scores, on_top in (((0.9, 0.3), 0), ((0.3, 0.9), 1)):
        drawn = draw_detections(image, detections([box, box], [0, 1], scores))
        assert near(drawn, 300, 400, class_color(on_top), 1)
        assert not near(drawn, 300, 400, class_color(1 - on_top), 3)


@pytest.mark.parametrize("width", [160, 1000])
def test_masks_are_translucent_in_the_color_of_their_class(width):
    """Also in an enlarged image; the argument is not modified."""
    height = width * 3 // 4
    image = np.full((height, width, 3), 128, np.uint8)
    image[:, : width // 2] = 40
    masked = detections([(width // 5, height // 5, width * 4 // 5, height * 4 // 5)], [2], [0.9])
    masked.mask = np.zeros((1, height, width), dtype=bool)
    masked.mask[0, height // 3 : height * 2 // 3, width // 4 : width * 3 // 4] = True
    before = masked.mask.copy()
    drawn = draw_detections(image, masked)
    np.testing.assert_array_equal(masked.mask, before)
    factor = drawn.shape[1] // width
    for x, below in ((width * 3 // 8, 40), (width * 5 // 8, 128)):
        pixel = drawn[height // 2 * factor, x * factor]
        np.testing.assert_allclose(pixel, 0.45 * np.array(rgb(class_color(2))) + 0.55 * below, atol=3)
        edge = drawn[height // 4 * factor, x * factor]
        assert (edge == below).all()


def test_colors_repeat():
    assert class_color(len(OKABE_ITO) + 2) == class_color(2)
    assert len(set(OKABE_ITO)) == len(OKABE_ITO)
    many = detections([(50, 50, 300, 300)], [40], [0.5], names=[str(i) for i in range(50)])
    assert near(draw_detections(np.zeros((640, 640, 3), np.uint8), many), 150, 300, class_color(40), 3)


def test_grid_has_truth_left_and_predictions_right():
    image = np.full((300, 400, 3), 200, np.uint8)
    truth, found = detections([(100, 100, 300, 200)], [0]), detections([(100, 100, 300, 200)], [1], [0.7])
    empty = detections([], [], [])
    page = draw_grid([GridRow(image, truth, found, "a.jpg"), GridRow(image[:, :200], empty, empty, "b.jpg")], "abc")
    half = page.shape[1] // 2
    body = page[100:]
    counts = {
        (side, label): (np.abs(part.astype(int) - rgb(class_color(label))).max(2) < 4).sum()
        for side, part in (("left", body[:, :half]), ("right", body[:, half:]))
        for label in (0, 1)
    }
    assert counts["left", 0] > 1000 < counts["right", 1]
    assert counts["left", 1] == counts["right", 0] == 0
    # 480 and 640 pixels high: every image is as large as its column.
    assert page.shape[0] > 480 + 640


def test_save_image_creates_folders(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    save_image(image, tmp_path / "deep" / "er" / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "deep" / "er" / "a.png")), image)
    save_image(image, tmp_path / "a.jpg")
    assert Image.open(tmp_path / "a.jpg").size == (30, 20)


@pytest.mark.skipif(not hasattr(sv, "CompactMask"), reason="an earlier version of supervision")
@pytest.mark.parametrize("side", [100, 700])
def test_compact_masks_of_tiles_are_drawn_like_arrays(side):
    mask = np.zeros((1, side, side), bool)
    mask[0, 10:50, 20:90] = True
    box = np.array([[20, 10, 90, 50]], np.float32)
    compact = sv.CompactMask.from_dense(mask, box, image_shape=(side, side))
    image = np.zeros((side, side, 3), np.uint8)
    drawn = [
        draw_detections(image, sv.Detections(xyxy=box, mask=one, class_id=np.array([0])), ["a"])
        for one in (mask, compact)
    ]
    assert (drawn[0] == drawn[1]).all()
