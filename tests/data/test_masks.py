"""Rasterization of segmentations, against pycocotools."""

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from libradet.data.loader import make_loader
from libradet.data.masks import decode_masks
from libradet.data.read import read
from libradet.data.transforms.augmentation import Augmentation
from libradet.geometry.masks import unpack_masks


@pytest.mark.parametrize(("step", "min_pixels"), [(16, 1e5), pytest.param(4, 1e6, marks=pytest.mark.slow)])
def test_masks_equal_those_of_pycocotools(shared_data, step, min_pixels):
    """Polygons and RLE of crowd regions, at the original size of every ``step``-th image."""
    dataset, _ = read(shared_data / "coco_cc", "val")
    coco = COCO(shared_data / "coco_cc" / "val.json")
    differing = total = 0
    for image in dataset.images[::step]:
        masks = decode_masks(image, image.height, image.width)
        for mask, number in zip(masks, image.annotation_ids, strict=True):
            expected = coco.annToMask(coco.loadAnns(int(number))[0])
            differing += int((mask.numpy() != expected).sum())
            total += int(expected.sum())
    assert total > min_pixels
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


def test_masks_of_training_batches_equal_those_of_pycocotools(shared_data):
    """Polygons and RLE of crowd regions after resizing, flipping, padding and packing."""
    dataset, _ = read(shared_data / "coco_cc", "train")
    crowded = [p for p in dataset.images if p.crowd.any()]
    dataset.images[:] = [*crowded[:2], *[p for p in dataset.images if len(p.labels) > 3][:4]]
    coco = COCO(shared_data / "coco_cc" / "train.json")
    seen = 0
    options = {"size": (300, 400), "batch_size": 2, "training": True, "augmentation": Augmentation(hflip_prob=1.0)}
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


def test_crowd_without_segmentation_is_its_box(tmp_path):
    from tests.helpers.data_building import damaged

    def damage(content):
        content["annotations"] = content["annotations"][:1]
        content["annotations"][0] |= {"iscrowd": 1}

    dataset, _ = read(damaged(tmp_path, damage), strict=False)
    mask = decode_masks(dataset.images[0], 24, 32)[0]
    assert mask[3:18, 2:12].all()
    assert mask.sum() == 15 * 10
