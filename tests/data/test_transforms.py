"""Resizing, mirroring and batching, against torchvision's own transforms."""

import numpy as np
import pytest
import torch
from data_building import sample_image
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from libradet.data.loading.transforms import Sample, collate, flip, prepare, resize, target_size
from libradet.errors import UserError
from libradet.geometry.masks import unpack_masks


def sample(width: int, height: int, count: int, index: int = 0, masks: bool = False) -> Sample:
    corners = torch.rand(count, 2, 2).sort(1).values * torch.tensor([width, height])
    drawn = torch.randint(0, 2, (count, height, width), dtype=torch.uint8) if masks else None
    image = torch.randint(1, 255, (3, height, width), dtype=torch.uint8)
    labels = torch.arange(count) % 3
    return Sample(image, corners.flatten(1), labels, labels == 2, (1.0, 1.0), index, drawn)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 900), st.integers(0, 900))
def test_target_size_touches_one_limit_and_exceeds_none(height, width, short, extra):
    long = short + extra
    new = target_size(height, width, (short, long))
    assert min(new) <= short
    assert max(new) <= long
    assert min(new) == short or max(new) == long
    scale = min(short / min(height, width), long / max(height, width))
    assert new == tuple(max(1, int(side * scale + 0.5)) for side in (height, width))


@given(st.integers(20, 900), st.integers(20, 900))
def test_target_size_agrees_with_torchvision(height, width):
    """Up to rounding: torchvision cuts off the long side, we round it."""
    expected = F._geometry._compute_resized_output_size((height, width), size=[320], max_size=533)
    assert np.abs(np.array(target_size(height, width, (320, 533))) - expected).max() <= 1


def test_original_size_is_left_alone():
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


def test_flip_agrees_with_torchvision():
    before = sample(64, 48, 5, masks=True)
    after = flip(before)
    wrapped = (
        tv_tensors.Image(before.image),
        tv_tensors.BoundingBoxes(before.boxes, format="XYXY", canvas_size=(48, 64)),
        tv_tensors.Mask(before.masks),
    )
    image, boxes, masks = v2.RandomHorizontalFlip(1.0)(*wrapped)
    assert after.image.equal(image.as_subclass(torch.Tensor))
    assert after.masks.equal(masks.as_subclass(torch.Tensor))
    torch.testing.assert_close(after.boxes, boxes.as_subclass(torch.Tensor))
    twice = flip(after)
    assert twice.image.equal(before.image)
    torch.testing.assert_close(twice.boxes, before.boxes)


@given(st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70), st.integers(0, 5)), min_size=1, max_size=4))
def test_collate_pads_and_loses_nothing(shapes):
    samples = [sample(w, h, g, index=7 + i, masks=True) for i, (w, h, g) in enumerate(shapes)]
    batch = collate(samples, divisor=32)
    height, width = batch.images.shape[2:]
    assert height % 32 == width % 32 == 0
    assert height - max(h for _, h, _ in shapes) < 32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    masks = unpack_masks(batch.masks, width)
    for i, (w, h, g) in enumerate(shapes):
        assert batch.sizes[i].tolist() == [h, w]
        assert batch.images[i, :, :h, :w].equal(samples[i].image)
        assert batch.images[i].sum() == samples[i].image.sum()
        assert batch.boxes[i, :g].equal(samples[i].boxes)
        assert batch.labels[i, :g].equal(samples[i].labels)
        assert batch.crowd[i, :g].equal(samples[i].crowd)
        assert masks[i, :g, :h, :w].equal(samples[i].masks)
        assert masks[i].sum() == samples[i].masks.sum()
        assert (batch.labels[i, g:] == -1).all()
        assert not batch.boxes[i, g:].any()
    assert batch.index.tolist() == [7 + i for i in range(len(shapes))]


def test_prepare_takes_files_images_and_arrays_alike(tmp_path):
    image = sample_image(64, 48)
    image.save(tmp_path / "x.png")
    array = np.array(image)
    gray = np.array(image.convert("L"))
    batch = prepare([tmp_path / "x.png", str(tmp_path / "x.png"), image, array, array[:, ::-1][:, ::-1]], (24, 99), 32)
    assert batch.images.shape == (5, 3, 32, 32)
    assert all(other.equal(batch.images[0]) for other in batch.images)
    assert batch.labels.tolist() == [[-1]] * 5
    assert batch.scales.tolist() == [[0.5, 0.5]] * 5
    mixed = prepare([gray, np.dstack([array, np.full_like(gray, 255)])], "original", 1)
    assert mixed.images[0, 0].equal(torch.from_numpy(gray))
    assert mixed.images[1].equal(torch.from_numpy(array).permute(2, 0, 1))


def test_prepare_turns_rotated_pil_images(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    sample_image(64, 48).save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as image:
        batch = prepare([image, tmp_path / "x.png"], "original", 1)
    assert batch.sizes.tolist() == [[64, 48]] * 2
    assert batch.images[0].equal(batch.images[1])


@pytest.mark.parametrize(
    "thing", [np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), np.zeros((3, 4, 4, 3), np.uint8), 3]
)
def test_prepare_refuses_what_is_no_image(thing):
    with pytest.raises(UserError, match="for an image"):
        prepare([thing], "original", 1)
