"""Datasets of tiles: which objects a tile has, and their boxes and masks there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hotcoco import mask as rle
from PIL import Image

from libradet.data.cache import ImageCache
from libradet.data.dataset import load_sample
from libradet.data.loader import make_loader
from libradet.data.masks import decode_masks
from libradet.data.records import Dataset, ImageRecord
from libradet.data.segmentation_windows import crop_segmentation
from libradet.data.tiling import tile_dataset
from libradet.errors import UserError
from libradet.geometry.tiles import Tiles, Window, tile_windows

TILES = Tiles(64, 0.25)


def record(boxes, crowd=None, width=150, height=110, path=Path("a.png"), segmentations=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    count = len(boxes)
    crowd = np.zeros(count, bool) if crowd is None else np.array(crowd)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1).astype(np.float64)
    ids = np.arange(count)
    return ImageRecord(1, path, width, height, boxes, np.arange(count) % 2, crowd, area, ids, segmentations)


def dataset_of(*images):
    return Dataset(Path(), "train", list(images), [1, 2], ["a", "b"])


def scattered(count, seed=0):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, [120, 80], (count, 2))
    return np.concatenate([corners, corners + rng.uniform(1, 30, (count, 2))], 1)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 1.0])
def test_an_object_is_in_each_tile_that_holds_its_share(ratio):
    image = record(scattered(60))
    tiled, counts = tile_dataset(dataset_of(image), TILES, ratio)
    windows = tile_windows(110, 150, TILES)
    assert [one.tile.window for one in tiled.images] == windows
    assert counts.images == 1
    assert counts.tiles == len(windows)
    kept, parts = set(), 0
    for one, (top, left, height, width) in zip(tiled.images, windows, strict=True):
        assert (one.height, one.width) == (height, width)
        expected = []
        for i, box in enumerate(image.boxes.astype(float)):
            clipped = np.array([*np.maximum(box[:2], [left, top]), *np.minimum(box[2:], [left + width, top + height])])
            sides = clipped[2:] - clipped[:2]
            share = sides.prod() / (box[2:] - box[:2]).prod()
            is_whole = (clipped == box).all()
            if (sides > 0).all() and (is_whole or ((sides >= 1).all() and share >= ratio)):
                expected.append((i, clipped - [left, top, left, top], share))
                parts += not is_whole
        assert one.annotation_ids.tolist() == [i for i, _, _ in expected]
        assert one.labels.tolist() == [i % 2 for i, _, _ in expected]
        np.testing.assert_allclose(one.boxes, np.array([box for _, box, _ in expected]).reshape(-1, 4), atol=1e-4)
        np.testing.assert_allclose(one.area, [image.area[i] * share for i, _, share in expected], rtol=1e-3)
        kept |= set(one.annotation_ids.tolist())
    assert counts.clipped == parts
    assert counts.lost == 60 - len(kept)


def test_parts_that_are_background_and_objects_in_no_tile_are_counted():
    # The first is whole in one tile and a sliver in the next, the second covers all tiles.
    tiled, counts = tile_dataset(dataset_of(record([[10, 5, 50, 15], [0, 0, 150, 110]])), TILES, 0.5)
    assert counts.lost == 1
    assert counts.background == 7
    assert counts.clipped == 0
    assert [len(one.boxes) for one in tiled.images] == [1, 0, 0, 0, 0, 0]
    assert counts.empty == 5
    assert len(tile_dataset(dataset_of(record([[10, 5, 50, 15]])), TILES, keep_empty=False)[0]) == 1


def test_crowd_regions_are_clipped_whatever_remains():
    tiled, counts = tile_dataset(dataset_of(record([[0, 0, 150, 110]], [True])), TILES, 1.0)
    assert all(one.boxes.tolist() == [[0, 0, 64, 64]] and not one.has_objects for one in tiled.images)
    assert (counts.empty, counts.clipped, counts.background, counts.lost) == (6, 0, 0, 0)


def test_an_image_that_is_one_tile_is_unchanged():
    image = record([[1, 2, 3, 4]])
    tiled, counts = tile_dataset(dataset_of(image), Tiles(150, 0))
    assert tiled.images[0] is image
    assert counts.tiles == 1


def test_runs_are_cropped():
    rng = np.random.default_rng(0)
    for density in [0, 0.1, 0.5, 0.9, 1] * 4:
        mask = (rng.random((23, 31)) < density).astype(np.uint8)
        encoded = rle.encode(np.asfortranarray(mask))
        height, width = int(rng.integers(1, 24)), int(rng.integers(1, 32))
        window = Window(int(rng.integers(24 - height)), int(rng.integers(32 - width)), height, width)
        assert (rle.decode(crop_segmentation(encoded, window)) == mask[window.slices]).all()


def test_masks_are_those_of_the_whole_image():
    """Boxes of clipped objects enclose what remains of the mask: here the lower half of a diamond, then its tip."""
    diamond = [np.array([60, 20, 100, 60, 60, 100, 20, 60], np.float32)]
    as_mask = np.zeros((110, 150), np.uint8)
    as_mask[70:100, 10:60] = 1
    as_rle = rle.encode(np.asfortranarray(as_mask))
    image = record([[20, 20, 100, 100], [10, 70, 60, 100]], segmentations=[diamond, as_rle])
    whole = decode_masks(image, 110, 150)
    tiled, _ = tile_dataset(dataset_of(image), TILES, 0.0)
    assert sum(len(one.labels) for one in tiled.images) > 4
    for one in tiled.images:
        rows, columns = one.tile.window.slices
        masks = decode_masks(one, one.height, one.width)
        expected = whole[one.annotation_ids][:, rows, columns]
        assert (masks != expected).sum(dim=(1, 2)).le(4).all(), "up to rounding of vertices outside of the tile"
        for mask, box in zip(masks.numpy(), one.boxes, strict=True):
            y, x = np.nonzero(mask)
            assert np.abs(box - [x.min(), y.min(), x.max() + 1, y.max() + 1]).max() <= 1
    # The diamond's corner in the last tile (from 86, 46) is no wider than its mask there.
    corner = tiled.images[-1]
    assert corner.boxes[0, 2] <= 100 - 86
    assert corner.area[0] < image.area[0] * 0.1


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 255, (110, 150, 3), np.uint8).astype(np.uint8)).save(tmp_path / name)
    return tmp_path


def test_pixels_are_those_of_the_window(folder):
    tiled, _ = tile_dataset(dataset_of(record(scattered(9), path=folder / "a.png")), TILES)
    pixels = torch.from_numpy(np.array(Image.open(folder / "a.png"))).permute(2, 0, 1)
    for row, one in enumerate(tiled.images):
        sample = load_sample(tiled, row, "original")
        assert torch.equal(sample.image, pixels[:, *one.tile.window.slices])
        assert torch.equal(sample.boxes, torch.from_numpy(one.boxes))
    replaced = replace(tiled.images[0], tile=tiled.images[0].tile._replace(image_width=151))
    with pytest.raises(UserError, match="was replaced: it is 150x110 and was 151x110"):
        load_sample(replace(tiled, images=[replaced]), 0, "original")


def test_one_decoding_fills_the_cache_with_all_tiles_of_the_image(folder, monkeypatch):
    images = [record(scattered(9), path=folder / name) for name in ("a.png", "b.png")]
    tiled, _ = tile_dataset(dataset_of(*images), TILES)
    settings = {"size": (32, 32), "batch_size": 1, "training": False}
    expected = {int(batch.index): batch.images for batch in make_loader(tiled, **settings)}
    cache, opened = ImageCache(tiled, (32, 32)), []
    from libradet.data import dataset

    original = dataset.open_windows
    monkeypatch.setattr(dataset, "open_windows", lambda *args: opened.append(args[0]) or original(*args))
    cached = {int(batch.index): batch.images for batch in make_loader(tiled, cache=cache, **settings)}
    assert [path.name for path in opened] == ["a.png", "b.png"]
    assert all(torch.equal(cached[row], image) for row, image in expected.items())


def test_tiles_without_objects_are_thinned_in_each_epoch_anew(folder):
    images = [record([[2, 2, 9, 9]], path=folder / name) for name in ("a.png", "b.png")]
    tiled, counts = tile_dataset(dataset_of(*images), TILES)
    assert counts.empty == 10
    loader = make_loader(tiled, size=(32, 32), batch_size=1, training=True, empty_fraction=0.3)
    epochs = []
    for epoch in range(20):
        loader.batch_sampler.set_epoch(epoch)
        epochs.append([key.index for batch in loader.batch_sampler for key in batch])
    with_objects = [row for row, one in enumerate(tiled.images) if one.has_objects]
    assert all(len(rows) == len(set(rows)) == 2 + 3 == len(loader) for rows in epochs)
    assert all(set(with_objects) <= set(rows) for rows in epochs)
    assert {row for rows in epochs for row in rows} == set(range(12)), "all are trained on in some epoch"
    drawn = loader.dataset.dataset._draw_images(20_000, np.random.default_rng(0))
    share = np.isin(drawn, with_objects).mean()
    assert share == pytest.approx(2 / 5, abs=0.02), "mosaics have the same share of tiles without objects"


@pytest.mark.parametrize("empty_fraction", [0.25, 1.0])
def test_processes_share_the_tiles_of_an_epoch(folder, empty_fraction):
    """Two processes have the tiles of one with twice the batch, and the same choice of tiles without objects."""
    boxes = [[2, 2, 9, 9], [80, 60, 99, 90]]
    tiled, counts = tile_dataset(dataset_of(record(boxes, path=folder / "a.png"), record([])), TILES)
    assert counts.empty == 8
    settings = {"size": (32, 32), "training": True, "empty_fraction": empty_fraction, "seed": 3}
    loaders = [make_loader(tiled, batch_size=2, rank=rank, world_size=2, **settings) for rank in range(2)]
    alone = make_loader(tiled, batch_size=4, **settings)
    assert len(loaders[0]) == len(loaders[1]) == len(alone)
    chosen = set()
    for epoch in range(6):
        for loader in (*loaders, alone):
            loader.batch_sampler.set_epoch(epoch)
        first, second, joint = (list(loader.batch_sampler) for loader in (*loaders, alone))
        assert [a + b for a, b in zip(first, second, strict=True)] == joint
        rows = [key.index for batch in joint for key in batch]
        with_objects = {row for row, one in enumerate(tiled.images) if one.has_objects}
        number = len(with_objects) + int(8 * empty_fraction)
        assert len(set(rows)) == number
        assert with_objects <= set(rows)
        # The last batch is filled up with tiles of the epoch.
        assert len(rows) == -(-number // 4) * 4
        chosen.add(frozenset(rows))
    assert len(chosen) == (1 if empty_fraction == 1 else 6), "other tiles without objects in each epoch"
