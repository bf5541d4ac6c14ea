"""Resizing and flipping, against torchvision's transforms."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from libradet.data.transforms.flip import hflip
from libradet.data.transforms.resize import resize, target_size
from tests.helpers.data_building import sample_image
from tests.helpers.samples import random_sample


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 900), st.integers(0, 900))
def test_target_size_reaches_one_limit_and_exceeds_none(height, width, short, extra):
    long = short + extra
    new = target_size(height, width, (short, long))
    assert min(new) <= short
    assert max(new) <= long
    assert min(new) == short or max(new) == long
    scale = min(short / min(height, width), long / max(height, width))
    assert new == tuple(max(1, int(side * scale + 0.5)) for side in (height, width))


@given(st.integers(20, 900), st.integers(20, 900))
def test_target_size_agrees_with_torchvision(height, width):
    """Equal up to rounding: torchvision truncates the long side, we round it."""
    expected = F._geometry._compute_resized_output_size((height, width), size=[320], max_size=533)
    assert np.abs(np.array(target_size(height, width, (320, 533))) - expected).max() <= 1


def test_original_size_is_unchanged():
    image = torch.randint(0, 255, (3, 33, 47), dtype=torch.uint8)
    same, *scales = resize(image, "original")
    assert same.equal(image)
    assert scales == [1.0, 1.0]


def test_resize_and_boxes_agree_with_torchvision():
    image = sample_image(64, 48)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    boxes = tv_tensors.BoundingBoxes([[4.0, 6, 24, 36], [0, 0, 64, 48]], format="XYXY", canvas_size=(48, 64))
    ours, scale_x, scale_y = resize(pixels, (30, 100))
    theirs, their_boxes = v2.Resize([30, 40], antialias=True)(tv_tensors.Image(pixels), boxes)
    assert ours.equal(theirs.as_subclass(torch.Tensor))
    scaled = boxes.as_subclass(torch.Tensor) * torch.tensor([scale_x, scale_y] * 2)
    torch.testing.assert_close(scaled, their_boxes.as_subclass(torch.Tensor).float())


def test_hflip_agrees_with_torchvision():
    before = random_sample(64, 48, 5, masks=True)
    after = hflip(before)
    wrapped = (
        tv_tensors.Image(before.image),
        tv_tensors.BoundingBoxes(before.boxes, format="XYXY", canvas_size=(48, 64)),
        tv_tensors.Mask(before.masks),
    )
    image, boxes, masks = v2.RandomHorizontalFlip(1.0)(*wrapped)
    assert after.image.equal(image.as_subclass(torch.Tensor))
    assert after.masks.equal(masks.as_subclass(torch.Tensor))
    torch.testing.assert_close(after.boxes, boxes.as_subclass(torch.Tensor))
    twice = hflip(after)
    assert twice.image.equal(before.image)
    torch.testing.assert_close(twice.boxes, before.boxes)
