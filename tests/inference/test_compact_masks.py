"""Masks of large images, stored inside their windows, are those of arrays of the whole image."""

import json
import tracemalloc

import numpy as np
import pytest
import torch
from hotcoco import mask as rle
from PIL import Image

from libradet.inference.compact_masks import encode_detection_masks, has_compact_masks, reduce_masks, to_compact_masks
from libradet.inference.postprocess import postprocess
from libradet.inference.tiles import batch_without_pixels, make_tiling
from libradet.inference.writers import predict_files, to_coco_results
from libradet.structures import Detections
from tests.inference.test_tiles import BrightPixelDetector, dark_image

pytestmark = pytest.mark.skipif(not has_compact_masks(), reason="an earlier version of supervision")

# Inside, at two borders, without area, less than a pixel.
BOXES = [[3.2, 4.7, 30.1, 25.3], [60.5, 40.0, 80.0, 50.0], [0, 0, 9.9, 50], [20, 20, 20, 30], [5.1, 5.1, 5.4, 5.4]]


def detections(boxes, seed=0):
    boxes = torch.tensor(boxes, dtype=torch.float64).reshape(1, -1, 4)
    number = boxes.shape[1]
    coarse = torch.rand(number, 1, 5, 5, generator=torch.Generator().manual_seed(seed))
    grids = torch.nn.functional.interpolate(coarse, size=(14, 14), mode="bilinear")[None, :, 0]
    scores, labels = torch.linspace(0.9, 0.1, number)[None], torch.zeros(1, number, dtype=torch.int64)
    return Detections(boxes, scores, labels, torch.ones(1, number, dtype=torch.bool), grids)


@pytest.mark.parametrize("boxes", [BOXES, []])
def test_equal_to_arrays(boxes):
    batch = batch_without_pixels(50, 80)
    whole, compact = (postprocess(detections(boxes), batch, ["a"], compact_masks=flag)[0] for flag in (False, True))
    assert compact.mask.shape == whole.mask.shape == (len(boxes), 50, 80)
    np.testing.assert_array_equal(np.asarray(compact.mask), whole.mask)
    results = [list(to_coco_results(found, 1, [1])) for found in (whole, compact)]
    assert results[0] == results[1]
    if boxes:
        assert whole.mask[:3].any((1, 2)).all()
        decoded = [rle.decode(result["segmentation"]) for result in results[1]]
        np.testing.assert_array_equal(decoded, whole.mask)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 60])
def test_every_kth_pixel(step):
    masks = [
        postprocess(detections(BOXES), batch_without_pixels(50, 80), ["a"], 0.0, flag)[0].mask for flag in (False, True)
    ]
    whole, compact = (reduce_masks(each, step) for each in masks)
    np.testing.assert_array_equal(whole, masks[0][:, ::step, ::step])
    assert compact.shape == whole.shape
    np.testing.assert_array_equal(np.asarray(compact), whole)


def test_memory_does_not_grow_with_the_image():
    """Boxes of 50 x 80 pixels in an image of 108 megapixels, of which one mask as an array is 108 MB."""
    height, width = 9000, 12_000
    corners = np.random.default_rng(0).integers(0, [width - 80, height - 50], (30, 2))
    boxes = np.concatenate([corners, corners + np.array([80, 50])], 1).tolist()
    tracemalloc.start()
    found = postprocess(detections(boxes), batch_without_pixels(height, width), ["a"], compact_masks=True)[0]
    results = list(to_coco_results(found, 1, [1]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6
    assert all(result["segmentation"]["size"] == [height, width] for result in results)
    areas = [int(rle.area(result["segmentation"])) for result in results]
    assert areas == found.mask.area.tolist()
    assert min(areas) > 0
    extent = rle.to_bbox(results[7]["segmentation"])
    assert (extent[:2] >= corners[7]).all()
    assert (extent[:2] + extent[2:] <= corners[7] + np.array([80, 50])).all()


def test_an_image_of_more_than_32768_pixels():
    windows = [(slice(2, 4), slice(39_998, 40_000), np.array([[True, False], [True, True]]))]
    masks = to_compact_masks(windows, 5, 40_000)
    (encoded,) = encode_detection_masks(masks)
    assert np.argwhere(rle.decode(encoded)).tolist() == [[2, 39_998], [3, 39_998], [3, 39_999]]


def test_a_file_that_is_read_by_window_is_rendered_with_its_masks(tmp_path, monkeypatch):
    """A square around each bright pixel, whose left half is the mask, every other pixel of an image of 150 x 110."""
    tifffile = pytest.importorskip("tifffile")
    monkeypatch.setattr("libradet.inference.writers.MAX_RENDERED_SIDE", 75)
    model = BrightPixelDetector(has_masks=True)
    tifffile.imwrite(tmp_path / "a.tif", dark_image(pixels=[(60, 30, 1, 200)]), photometric="rgb", tile=(64, 64))
    tiling = make_tiling(model, (64, 0.25))
    for name, has_masks in (("masks", True), ("boxes", False)):
        model.has_masks = has_masks
        predict_files(model, [tmp_path / "a.tif"], tmp_path / name, tiling=tiling, progress=False)
    results = json.loads((tmp_path / "masks" / "predictions.json").read_text())
    assert [result["segmentation"]["size"] for result in results] == [[110, 150]]
    masked, plain = (np.asarray(Image.open(tmp_path / name / "a.jpg"), int) for name in ("masks", "boxes"))
    factor = masked.shape[1] // 75
    assert masked.shape == plain.shape == (55 * factor, 75 * factor, 3)
    rows, columns = np.nonzero(np.abs(masked - plain).max(2) > 40)
    assert columns.min() >= 27 * factor
    assert columns.max() <= 31 * factor, "the left half of columns 56 to 65, halved"
    assert rows.min() >= 12 * factor
    assert rows.max() <= 19 * factor
