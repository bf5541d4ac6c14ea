"""Tiled inference: detections are moved to the image and merged, in batches of one size, independent of batching."""

import json
from dataclasses import replace

import numpy as np
import pytest
import supervision as sv
import torch
from PIL import Image
from torch import nn
from torchvision.ops import batched_nms

from libradet.cli import main
from libradet.data.records import Dataset, ImageRecord
from libradet.data.synthesis.synthetic import synthesize
from libradet.errors import UserError
from libradet.evaluation.evaluate import evaluate
from libradet.geometry.tiles import Tiles, tile_windows
from libradet.inference.dataset_runner import run_on_dataset
from libradet.inference.predict import predict
from libradet.inference.tiles import MIN_ROWS, GrowingRows, Tiling, make_tiling
from libradet.inference.tta import with_tta
from libradet.models.build import create_model
from libradet.models.config import MaskConfig
from libradet.models.serialization import save_model
from libradet.models.zoo import make_config
from libradet.predictor import Predictor
from libradet.structures import Detections
from tests.helpers.fake_detectors import FixedDetector
from tests.helpers.tiny_detectors import lively, tiny_detector, tiny_zoo_config


class BrightPixelDetector(nn.Module):
    """Detects each bright pixel as a box of 9 x 9 around it, clipped to the image; its class is the channel.

    The score is the pixel's value over 255, times the share of the box inside the image. ``shapes`` has the shapes of
    all batches so far.
    """

    name, class_names, category_ids, size_divisible = "bright", ("red", "green", "blue"), (1, 2, 3), 32
    image_size, device, slots = "original", torch.device("cpu"), 40
    is_proposal_model, num_proposals, has_masks = False, 0, False

    def __init__(self, **changes):
        super().__init__()
        self.shapes = []
        self.__dict__.update(changes)

    def forward(self, batch):
        self.shapes.append(tuple(batch.images.shape))
        count = len(batch.sizes)
        boxes, scores = torch.full((count, self.slots, 4), 3.0), torch.zeros(count, self.slots)
        labels, valid = torch.zeros(count, self.slots).long(), torch.zeros(count, self.slots).bool()
        for b, image in enumerate(batch.images):
            channel, y, x = torch.nonzero(image > 100, as_tuple=True)
            n = len(channel)
            around = torch.stack([x - 4, y - 4, x + 5, y + 5], 1).float()
            boxes[b, :n] = around.clamp(min=0).minimum(batch.sizes[b].flip(0).repeat(2).float())
            share = (boxes[b, :n, 2:] - boxes[b, :n, :2]).prod(1) / 81
            scores[b, :n], labels[b, :n], valid[b, :n] = image[channel, y, x] / 255 * share, channel, True
        masks = None
        if self.has_masks:
            masks = (torch.arange(4) < 2).float().expand(count, self.slots, 4, 4)
        return Detections(boxes, scores, labels, valid, masks)


def dark_image(width=150, height=110, pixels=()):
    """A black image with bright pixels: (x, y, channel, value)."""
    image = np.zeros((height, width, 3), np.uint8)
    for x, y, channel, value in pixels:
        image[y, x, channel] = value
    return image


def scattered(count, width, height, seed=0):
    rng = np.random.default_rng(seed)
    columns = rng.integers(width, size=count), rng.integers(height, size=count), rng.integers(3, size=count)
    return list(zip(*columns, rng.permutation(np.arange(105, 105 + count)), strict=True))


def expected_detections(image, tiles, threshold, scale=1.0):
    """Boxes, scores and labels of torchvision's NMS on the shifted boxes of all tiles, best first."""
    boxes, scores, labels = [], [], []
    height, width = image.shape[:2]
    for window in tile_windows(height, width, tiles):
        tile = image[window.slices]
        for y, x, channel in np.argwhere(tile > 100):
            corners = np.array([x - 4, y - 4, x + 5, y + 5]).clip(0, [window.width, window.height] * 2)
            boxes.append(corners + np.array([window.left, window.top] * 2))
            scores.append(tile[y, x, channel] / 255 * (corners[2:] - corners[:2]).prod() / 81)
            labels.append(channel)
    boxes, scores = torch.tensor(np.array(boxes)).float(), torch.tensor(scores).float()
    labels = torch.tensor(labels)
    rows = batched_nms(boxes, scores, labels, threshold)
    return boxes[rows].numpy(), scores[rows].numpy(), labels[rows].numpy()


def as_rows(boxes, scores, labels):
    return np.array(sorted((float(s), int(k), *map(float, b)) for b, s, k in zip(boxes, scores, labels, strict=True)))


@pytest.mark.parametrize("batch_size", [1, 3, 50])
@pytest.mark.parametrize(("size", "overlap"), [(64, 0.25), (50, 0.0), (40, 0.5), (500, 0.2)])
def test_merged_as_by_torchvision(size, overlap, batch_size):
    image = dark_image(pixels=scattered(60, 150, 110))
    model = BrightPixelDetector(slots=80)
    tiling = make_tiling(model, (size, overlap))
    found = predict(model, image, score_thresh=0.0, batch_size=batch_size, tiling=tiling)
    expected = expected_detections(image, Tiles(size, overlap), 0.5)
    np.testing.assert_allclose(as_rows(found.xyxy, found.confidence, found.class_id), as_rows(*expected), atol=1e-5)
    assert (np.diff(found.confidence) <= 0).all()
    number = len(tile_windows(110, 150, Tiles(size, overlap)))
    assert [shape[0] for shape in model.shapes] == [batch_size] * (number // batch_size) + (
        [number % batch_size] if number % batch_size else []
    )


def test_object_on_a_border_is_detected_once():
    # Tiles start at 0, 48 and 86: the pixel is in two of them, in one of them near the border.
    found = predict(
        BrightPixelDetector(), dark_image(150, 64, [(60, 30, 1, 200)]), tiling=Tiling(Tiles(64, 0.25), "nms", 0.5)
    )
    np.testing.assert_array_equal(found.xyxy, [[56, 26, 65, 35]])
    assert found.class_id.tolist() == [1]
    assert found.data["class_name"].tolist() == ["green"]


def test_tiles_are_resized_and_detections_scaled_back():
    """Twice as large: boxes of 9 x 9 pixels are half as large in the image."""
    image = np.zeros((60, 100, 3), np.uint8)
    image[20:24, 30:34] = 250

    class Rectangle(BrightPixelDetector):
        def forward(self, batch):
            self.shapes.append(tuple(batch.images.shape))
            count = len(batch.sizes)
            boxes, valid = torch.zeros(count, 1, 4), torch.zeros(count, 1).bool()
            for b, tile in enumerate(batch.images):
                if (tile[0] > 200).any():
                    y, x = torch.nonzero(tile[0] > 125, as_tuple=True)
                    boxes[b, 0] = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
                    valid[b, 0] = True
            return Detections(boxes, torch.ones(count, 1), torch.zeros(count, 1).long(), valid)

    model = Rectangle(image_size=(80, 80))
    found = predict(model, image, batch_size=4, tiling=make_tiling(model, (40, 0.5)))
    assert {shape[2:] for shape in model.shapes} == {(96, 96)}, "80 pixels, padded to a multiple of 32"
    np.testing.assert_allclose(found.xyxy, [[30, 20, 34, 24]], atol=0.51)


def test_rows_are_appended_in_memory_that_grows_seldom():
    rows, parts, addresses = GrowingRows(), [], set()
    for number in range(200):
        parts.append(torch.full((number % 40, 4), float(number)))
        rows.append(parts[-1])
        addresses.add(rows.rows.data_ptr())
    assert torch.equal(rows.rows, torch.cat(parts))
    assert len(rows.rows) > 3 * MIN_ROWS
    assert len(addresses - {0}) <= 3


def test_without_detections():
    found = predict(BrightPixelDetector(), dark_image(), tiling=make_tiling(BrightPixelDetector(), (64, 0.2)))
    assert found.xyxy.shape == (0, 4)


def test_weighted_boxes_fusion_averages_views():
    # Tiles start at 0 and 36: the box is whole in both, so both are equal; a pixel at the border is cut in one.
    model = BrightPixelDetector()
    image = dark_image(100, 64, [(50, 30, 0, 200), (61, 10, 0, 200)])
    found = predict(model, image, tiling=make_tiling(model, (64, 0.4), "wbf"))
    # Cut at 64 in the first tile: columns 57 to 64 and 57 to 66 are averaged.
    whole, cut = 200 / 255, 200 / 255 * 7 / 9
    end = (66 * whole + 64 * cut) / (whole + cut)
    expected = [((whole + cut) / 2, 0, 57, 6, end, 15), (whole, 0, 46, 26, 55, 35)]
    np.testing.assert_allclose(as_rows(found.xyxy, found.confidence, found.class_id), expected, atol=1e-5)


def test_masks_follow_their_boxes():
    model = BrightPixelDetector(has_masks=True)
    image = dark_image(pixels=[(60, 30, 1, 200), (100, 90, 0, 220)])
    found = predict(model, image, tiling=make_tiling(model, (64, 0.4)))
    whole = predict(model, image)
    assert isinstance(found.mask, sv.CompactMask)
    assert len(found) == 2
    order = np.argsort(-whole.confidence)
    np.testing.assert_array_equal(found.xyxy, whole.xyxy[order])
    np.testing.assert_array_equal(np.asarray(found.mask), whole.mask[order])
    assert found.mask[0].sum() > 0


@pytest.mark.parametrize("size", ["original", (96, 96)])
def test_masks_of_a_detector_are_those_of_its_tiles(size):
    """Predicted on each tile as an image of its own, pasted into the whole image, and merged by torchvision."""
    model = lively(tiny_detector(tiny_zoo_config("mask_rcnn")))
    model.config.detections.score_thresh, model.config.detections.detections_per_img = 0.2, 12
    image = np.random.default_rng(0).integers(0, 256, (110, 150, 3)).astype(np.uint8)
    image = image.repeat(2, 0).repeat(2, 1)[:110, :150]
    found = predict(model, image, score_thresh=0.0, size=size, batch_size=4, tiling=make_tiling(model, (64, 0.25)))
    boxes, scores, labels, masks = [], [], [], []
    for window in tile_windows(110, 150, Tiles(64, 0.25)):
        part = predict(model, image[window.slices], score_thresh=0.0, size=size)
        boxes.append(part.xyxy + np.array([window.left, window.top] * 2))
        scores.append(part.confidence)
        labels.append(part.class_id)
        masks.append(np.zeros((len(part), 110, 150), bool))
        masks[-1][:, *window.slices] = part.mask
    boxes, scores, labels, masks = (np.concatenate(column) for column in (boxes, scores, labels, masks))
    columns = torch.tensor(boxes).float(), torch.tensor(scores), torch.tensor(labels)
    rows = batched_nms(*columns, model.config.detections.nms_thresh).numpy()
    assert len(rows) < len(boxes), "some are merged"
    assert len(found) == len(rows) > 20
    np.testing.assert_allclose(found.xyxy, boxes[rows], atol=1e-3)
    np.testing.assert_array_equal(found.class_id, labels[rows])
    assert found.mask.shape == (len(rows), 110, 150)
    different = np.asarray(found.mask) != masks[rows]
    assert masks[rows].any((1, 2)).mean() > 0.5
    assert different.sum() <= 1e-3 * masks[rows].sum(), "up to rounding"


def tiled_dataset(folder, sizes=((150, 110), (64, 64), (30, 20), (200, 90))):
    """Images whose bright pixels are objects."""
    records = []
    for i, (width, height) in enumerate(sizes):
        pixels = [p for p in scattered(8, width, height, i) if 5 <= p[0] < width - 5 and 5 <= p[1] < height - 5]
        Image.fromarray(dark_image(width, height, pixels)).save(folder / f"{i}.png")
        boxes = np.array([(x - 4, y - 4, x + 5, y + 5) for x, y, _, _ in pixels], np.float32).reshape(-1, 4)
        labels, crowd = np.array([p[2] for p in pixels], np.int64), np.zeros(len(pixels), bool)
        area, ids = np.full(len(pixels), 81.0), np.arange(len(pixels)) + 100 * i
        path = folder / f"{i}.png"
        records.append(ImageRecord(10 + i, path, width, height, boxes, labels, crowd, area, ids))
    return Dataset(folder, "val", records, [1, 2, 3], ["red", "green", "blue"])


def test_dataset_as_image_by_image(tmp_path):
    dataset = tiled_dataset(tmp_path)
    model = BrightPixelDetector()
    tiling = make_tiling(model, (64, 0.25))
    results = {}

    def keep(detections, batch):
        assert len(batch.index) == 1
        results[int(batch.index)] = detections

    run_on_dataset(model, dataset, keep, batch_size=4, progress=False, tiling=tiling)
    # The 16 tiles of four images share batches.
    assert sorted(shape[0] for shape in model.shapes) == [4, 4, 4, 4]
    assert sorted(results) == [0, 1, 2, 3]
    for row, image in enumerate(dataset.images):
        alone = predict(model, image.path, score_thresh=0.0, tiling=tiling)
        np.testing.assert_allclose(results[row].boxes[0], alone.xyxy, atol=1e-4)
        np.testing.assert_array_equal(results[row].labels[0], alone.class_id)


@pytest.mark.parametrize("merge", ["nms", "wbf"])
def test_evaluation(tmp_path, merge):
    dataset = tiled_dataset(tmp_path)
    settings = {"tiles": (64, 0.3), "tile_merge": merge, "progress": False, "coco_results": tmp_path / "results.json"}
    metrics = evaluate(BrightPixelDetector(), dataset, **settings)
    assert metrics["AR100"] > 0.95
    results = json.loads((tmp_path / "results.json").read_text())
    assert {result["image_id"] for result in results} == {10, 11, 12, 13}
    assert metrics["detections"] == len(results)


def test_shares_of_processes(tmp_path, monkeypatch):
    """Each process has whole images; one without images repeats the last."""
    dataset = tiled_dataset(tmp_path)
    rows = []
    for rank in range(3):
        monkeypatch.setattr("libradet.inference.dataset_runner.rank", lambda rank=rank: rank)
        monkeypatch.setattr("libradet.inference.dataset_runner.world_size", lambda: 3)
        own = []
        tiling = make_tiling(BrightPixelDetector(), (64, 0.25))
        run_on_dataset(
            BrightPixelDetector(),
            dataset,
            lambda _, batch, own=own: own.append(int(batch.index)),
            progress=False,
            tiling=tiling,
        )
        rows.append(sorted(own))
    assert rows == [[0, 3], [1], [2]]


def test_errors_of_the_reading_thread(tmp_path):
    dataset = tiled_dataset(tmp_path)
    dataset.images[2].path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"2\.png"):
        evaluate(BrightPixelDetector(), dataset, tiles=(64, 0.2), progress=False)


def test_image_that_was_replaced(tmp_path):
    dataset = tiled_dataset(tmp_path)
    dataset.images[0] = replace(dataset.images[0], width=151)
    with pytest.raises(UserError, match="was replaced"):
        evaluate(BrightPixelDetector(), dataset, tiles=(64, 0.2), progress=False)


def test_with_test_time_augmentation():
    model = BrightPixelDetector()
    views = with_tta(model, tta_flip=True)
    assert isinstance(views, Predictor)
    image = dark_image(pixels=[(60, 30, 1, 200), (10, 90, 2, 150)])
    found = predict(views, image, batch_size=4, tiling=make_tiling(model, (64, 0.3)))
    np.testing.assert_array_equal(found.xyxy, [[56, 26, 65, 35], [6, 86, 15, 95]])
    assert len(model.shapes) == 2 * 3, "12 tiles in batches of 4, and mirrored"


@pytest.mark.parametrize(("name", "threshold"), [("faster_rcnn", 0.3), ("retinanet", 0.3), ("rpn", 0.7)])
def test_threshold_of_the_detector(name, threshold):
    model = FixedDetector()
    model.config = make_config(name)
    model.config.detections.nms_thresh = 0.3
    assert make_tiling(model, (64, 0.2)).threshold == threshold


def test_refused():
    model = FixedDetector()
    with pytest.raises(UserError, match="overlap 2"):
        model.predict(dark_image(), tiles=(64, 2.0))
    model.config.mask = MaskConfig()
    with pytest.raises(UserError, match="cannot fuse"):
        model.predict(dark_image(), tiles=(64, 0.2), tile_merge="wbf")
    model.config.rpn = None
    with pytest.raises(UserError, match="precomputed proposals"):
        make_tiling(model, (64, 0.2))


def test_without_tiles_nothing_changes():
    assert make_tiling(FixedDetector(), None) is None
    with pytest.raises(UserError, match="tile_merge is wbf, which needs tiles"):
        make_tiling(FixedDetector(), None, "wbf")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset, and an untrained detector."""
    root = tmp_path_factory.mktemp("tiles")
    synthesize(root / "data", train=1, val=2, size=(160, 112), classes=2)
    torch.manual_seed(0)
    config = make_config("faster_rcnn", backbone="test_resnet")
    config.image.size, config.pyramid.channels = (64, 64), 16
    config.rpn.test_proposals = replace(config.rpn.test_proposals, pre_nms_top_n=40, post_nms_top_n=40)
    config.roi.fc_dim, config.detections.score_thresh = 32, 0.0
    save_model(create_model(config=config, class_names=("ball", "crate")), root / "model.safetensors")
    return root


def test_commands(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    model, data, tiles = str(folder / "model.safetensors"), str(folder / "data"), ["--tiles", "64", "0.2"]
    assert main(["evaluate", model, "--data", data, "--json", "n.json", *tiles]) == 0
    numbers = json.loads((tmp_path / "n.json").read_text())
    images = str(folder / "data" / "images" / "val_*.jpg")
    assert main(["predict", model, images, "--output_dir", "out", "--score_thresh", "0", *tiles]) == 0
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) == numbers["detections"] > 100
    assert (tmp_path / "out" / "val_00001.jpg").exists()
    capfd.readouterr()
    assert main(["evaluate", model, "--data", data, "--tiles", "0", "0.2"]) == 2
    assert "tiles has the size 0" in capfd.readouterr().err
