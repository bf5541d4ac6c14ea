"""Segmentations against pycocotools."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as reference
from pycocotools.coco import COCO

from libradet.data.loading.augmentation import Augmentation
from libradet.data.loading.loader import make_loader
from libradet.data.rasterize import decode_masks
from libradet.data.read import read
from libradet.data.segmentations import compact, enclosing_box
from libradet.geometry.masks import unpack_masks


def test_masks_of_real_images_equal_pycocotools(shared_data):
    """Polygons and crowd run lengths, at the images' own size."""
    dataset, _ = read(shared_data / "coco_cc", "val")
    coco = COCO(shared_data / "coco_cc" / "val.json")
    differing = total = 0
    for image in dataset.images[::4]:
        masks = decode_masks(image, image.height, image.width)
        for mask, number in zip(masks, image.annotation_ids, strict=True):
            expected = coco.annToMask(coco.loadAnns(int(number))[0])
            differing += int((mask.numpy() != expected).sum())
            total += int(expected.sum())
    assert total > 1e6
    assert differing == 0


def test_masks_of_resized_images(shared_data):
    dataset, _ = read(shared_data / "coco_cc", "val")
    image = max(dataset.images, key=lambda p: p.crowd.sum())
    assert image.crowd.any()
    full = decode_masks(image, image.height, image.width).float()
    half = decode_masks(image, image.height // 2, image.width // 2).float()
    expected = torch.nn.functional.interpolate(full[None], half.shape[1:], mode="area")[0].ge(0.5).float()
    large = full.sum((1, 2)) > 2000
    overlap = (half * expected).sum((1, 2)) / (half + expected).clamp(max=1).sum((1, 2))
    assert (overlap[large] > 0.9).all()


def test_masks_of_training_batches_lie_on_the_objects(shared_data):
    """Polygons and crowd run lengths after resizing, mirroring, padding and packing, against pycocotools."""
    dataset, _ = read(shared_data / "coco_cc", "train")
    crowded = [p for p in dataset.images if p.crowd.any()]
    dataset.images[:] = [*crowded[:2], *[p for p in dataset.images if len(p.labels) > 3][:4]]
    coco = COCO(shared_data / "coco_cc" / "train.json")
    seen = 0
    options = {"size": (300, 400), "batch_size": 2, "training": True, "augmentation": Augmentation(flip=1.0)}
    for batch in make_loader(dataset, **options, masks=True):
        masks = unpack_masks(batch.masks, batch.images.shape[3])
        assert batch.masks.shape == (*batch.labels.shape, batch.images.shape[2], batch.images.shape[3] // 8)
        for row, index in enumerate(batch.index.tolist()):
            height, width = batch.sizes[row].tolist()
            numbers = dataset.images[index].annotation_ids.tolist()
            drawn = [coco.annToMask(a)[:, ::-1].copy() for a in coco.loadAnns(numbers)]
            expected = torch.from_numpy(np.stack(drawn)).float()
            expected = torch.nn.functional.interpolate(expected[None], (height, width), mode="area")[0] >= 0.5
            ours = masks[row, : len(numbers), :height, :width].bool()
            assert masks[row].sum() == ours.sum(), "padding is empty"
            large = expected.sum((1, 2)) > 1000
            overlap = (ours & expected).sum((1, 2)) / (ours | expected).sum((1, 2))
            assert (overlap[large] > 0.9).all()
            seen += int(large.sum())
    assert seen > 20


def test_both_kinds_of_run_lengths():
    drawn = np.zeros((48, 64), np.uint8, order="F")
    drawn[5:20, 10:30] = 1
    packed = reference.encode(drawn)
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[2], drawn.ravel("F"), [2]]).astype(int))))
    plain = {"size": [48, 64], "counts": runs.tolist()}
    text = packed | {"counts": packed["counts"].decode()}
    for found in (plain, packed, text):
        unfit: list[str] = []
        kept = compact({"segmentation": json.loads(json.dumps(found, default=bytes.decode))}, 64, 48, False, unfit)
        assert unfit == []
        counts = kept["counts"] if isinstance(kept["counts"], bytes) else kept["counts"].encode()
        np.testing.assert_array_equal(reference.decode(kept | {"counts": counts}), drawn)
        assert enclosing_box(found) == [10, 5, 20, 15]


def test_crowd_without_segmentation_is_its_box(tmp_path):
    from data_building import damaged

    def damage(content):
        content["annotations"] = content["annotations"][:1]
        content["annotations"][0] |= {"iscrowd": 1}

    dataset, _ = read(damaged(tmp_path, damage), strict=False)
    mask = decode_masks(dataset.images[0], 24, 32)[0]
    assert mask[3:18, 2:12].all()
    assert mask.sum() == 15 * 10


@pytest.mark.parametrize(
    "found",
    [
        [[]],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [["a"] * 6],
        [[float("nan")] * 6],
        [1, 2, 3, 4, 5, 6],
        "polygon",
        {"size": [48, 64]},
        {"size": [48, 64], "counts": [1, "x"]},
        {"size": [48, 64], "counts": [-5, 48 * 64 + 5]},
        {"size": [64, 48], "counts": [64 * 48]},
    ],
)
def test_unusable_ones_are_named(found):
    unfit: list[str] = []
    assert compact({"id": 3, "segmentation": found}, 64, 48, False, unfit) is None
    assert unfit == ["annotation 3"]
