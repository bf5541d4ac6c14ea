"""Flips, right-angle rotation, mixup, blur, noise and shrinking: exact on drawn rectangles."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from libradet.data.transforms.fit import shrink_to_fit
from libradet.data.transforms.flip import hflip, vflip
from libradet.data.transforms.mixup import mixup
from libradet.data.transforms.noise import gaussian_blur, gaussian_noise
from libradet.data.transforms.rotate import rotate90
from libradet.data.transforms.sample import Sample


@st.composite
def samples(draw, height=None, width=None, with_masks=None):
    """Rectangles of different colors, each in a column of its own; boxes are also proposals."""
    count = draw(st.integers(0, 3))
    height, width = height or draw(st.integers(1, 30)), width or draw(st.integers(max(1, 8 * count), 40))
    image, boxes = torch.zeros(3, height, width, dtype=torch.uint8), torch.zeros(count, 4)
    drawn_masks = torch.zeros(count, height, width, dtype=torch.uint8)
    for i in range(count):
        left, top = 8 * i + draw(st.integers(0, 3)), draw(st.integers(0, height - 1))
        right, bottom = left + draw(st.integers(1, 4)), draw(st.integers(top + 1, height))
        boxes[i] = torch.tensor([left, top, right, bottom])
        image[:, top:bottom, left:right] = 60 * (i + 1)
        drawn_masks[i, top:bottom, left:right] = 1
    labels = torch.arange(count)
    scale = (draw(st.floats(0.5, 2)), 1.0)
    return Sample(
        image,
        boxes,
        labels,
        labels == 1,
        scale,
        3,
        drawn_masks if (draw(st.booleans()) if with_masks is None else with_masks) else None,
        boxes.clone(),
    )


def equal(first, second):
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(first, second, strict=True))


def assert_boxes_are_pixels(sample, color=lambda label: 60 * (label + 1)):
    for i, label in enumerate(sample.labels.tolist()):
        pixels = sample.image[0] == color(label)
        ys, xs = torch.nonzero(pixels, as_tuple=True)
        extent = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert sample.boxes[i].tolist() == [int(v) for v in extent]
        assert sample.masks is None or torch.equal(sample.masks[i].bool(), pixels)
    assert sample.proposals is None or torch.equal(sample.proposals, sample.boxes)


@given(samples())
def test_flips_move_boxes_and_masks_with_the_pixels(sample):
    for flip in (hflip, vflip):
        assert_boxes_are_pixels(flip(sample))
        assert equal(flip(flip(sample)), sample)
    assert torch.equal(vflip(sample).image, sample.image.flip(1))
    assert equal(vflip(hflip(sample)), rotate90(sample, 2))


@given(samples(), st.integers(-8, 8))
def test_rotations_move_boxes_and_masks_with_the_pixels(sample, turns):
    rotated = rotate90(sample, turns)
    assert_boxes_are_pixels(rotated)
    assert torch.equal(rotated.image, sample.image.rot90(turns, (1, 2)))
    assert equal(rotate90(rotated, 4 - turns), sample)
    assert rotated.scale == (sample.scale[::-1] if turns % 2 else sample.scale)


@given(samples(), st.data())
def test_mixup_averages_pixels_and_keeps_the_objects_of_both(sample, data):
    height, width = sample.image.shape[1:]
    rows, columns = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    source = (
        data.draw(samples(rows, columns, sample.masks is not None))
        if columns >= 24
        else empty(rows, columns, sample.masks)
    )
    top, left = data.draw(st.integers(0, height - rows)), data.draw(st.integers(0, width - columns))
    before = sample.image.clone()
    mixed = mixup(sample, source, (top, left))
    assert torch.equal(sample.image, before)
    expected = sample.image.double()
    region = expected[:, top : top + rows, left : left + columns]
    region += (source.image.double() - region) / 2
    assert torch.equal(mixed.image.double(), (expected + 0.5).floor())
    count = len(sample.labels)
    assert torch.equal(mixed.boxes[:count], sample.boxes)
    assert torch.equal(mixed.boxes[count:], source.boxes + torch.tensor([left, top, left, top]))
    assert mixed.labels.tolist() == [*sample.labels.tolist(), *source.labels.tolist()]
    assert mixed.crowd.tolist() == [*sample.crowd.tolist(), *source.crowd.tolist()]
    assert (mixed.scale, mixed.index) == (sample.scale, sample.index)
    if sample.masks is None:
        assert mixed.masks is None
        return
    assert mixed.masks.shape == (len(mixed.labels), height, width)
    for box, mask in zip(mixed.boxes.int().tolist(), mixed.masks, strict=True):
        filled = torch.zeros(height, width, dtype=torch.uint8)
        filled[box[1] : box[3], box[0] : box[2]] = 1
        assert torch.equal(mask, filled)


def empty(height, width, masks):
    image, boxes = torch.full((3, height, width), 255, dtype=torch.uint8), torch.zeros(0, 4)
    own = None if masks is None else torch.zeros(0, height, width, dtype=torch.uint8)
    return Sample(image, boxes, torch.zeros(0).long(), torch.zeros(0).bool(), (1.0, 1.0), 0, own)


@given(samples(), st.integers(1, 4))
def test_shrinking_by_a_whole_factor_is_exact(sample, factor):
    large = sample._replace(
        image=sample.image.repeat_interleave(factor, 1).repeat_interleave(factor, 2),
        boxes=sample.boxes * factor,
        proposals=sample.proposals * factor,
        masks=None if sample.masks is None else sample.masks.repeat_interleave(factor, 1).repeat_interleave(factor, 2),
        scale=(sample.scale[0] * factor, sample.scale[1] * factor),
    )
    height, width = sample.image.shape[1:]
    shrunk = shrink_to_fit(large, (height, width))
    assert shrunk.image.shape == sample.image.shape
    assert torch.allclose(shrunk.boxes, sample.boxes)
    assert torch.allclose(shrunk.proposals, sample.proposals)
    assert shrunk.scale == pytest.approx(sample.scale)
    assert sample.masks is None or torch.equal(shrunk.masks, sample.masks)
    assert shrink_to_fit(large, (height * factor, 10**6)) is large


@given(st.integers(1, 99), st.integers(1, 99), st.integers(1, 60), st.integers(1, 60))
def test_shrunk_images_fit_and_keep_their_shape(height, width, rows, columns):
    image = empty(height, width, None)
    shrunk = shrink_to_fit(image, (rows, columns)).image.shape[1:]
    assert shrunk[0] <= rows
    assert shrunk[1] <= columns
    factor = min(1, rows / height, columns / width)
    assert abs(shrunk[0] - max(1, height * factor)) <= 0.5
    assert abs(shrunk[1] - max(1, width * factor)) <= 0.5


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3), (40, 50)])
def test_blur_keeps_the_mean_and_smooths(size):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    blurred = gaussian_blur(image, 2.0, np.random.default_rng(1))
    assert blurred.shape == image.shape
    assert blurred.dtype == torch.uint8
    assert torch.equal(
        gaussian_blur(torch.full_like(image, 77), 2.0, np.random.default_rng(1)), torch.full_like(image, 77)
    )
    if min(size) > 9:
        assert blurred.float().std() < 0.7 * image.float().std()
        assert blurred.float().mean().item() == pytest.approx(image.float().mean().item(), abs=2)


def test_blur_is_a_gaussian_of_the_drawn_width():
    image = torch.zeros(3, 41, 41, dtype=torch.uint8)
    image[:, :, 20] = 255
    sigma = np.random.default_rng(4).uniform(0, 3)
    row = gaussian_blur(image, 3.0, np.random.default_rng(4))[0, 5].double().numpy() / 255
    x = np.arange(41) - 20
    assert np.sqrt((row * x**2).sum() / row.sum()) == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("max_sigma", [0.0, 0.05, 0.2])
def test_noise_has_the_drawn_deviation(max_sigma):
    image = torch.full((3, 60, 70), 128, dtype=torch.uint8)
    sigma = 255 * np.random.default_rng(4).uniform(0, max_sigma)
    noisy = gaussian_noise(image, max_sigma, np.random.default_rng(4)).double() - 128
    assert noisy.mean().abs() < 1 + sigma / 20
    assert noisy.std().item() == pytest.approx(np.hypot(sigma, 0.29 * (sigma > 0)), rel=0.05)
    white = gaussian_noise(torch.full_like(image, 255), max_sigma, np.random.default_rng(4))
    assert int(white.min()) >= 255 - 7 * max(sigma, 0)
