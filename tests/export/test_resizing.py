"""Exported files resize images exactly as the data loader does."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from libradet.data.transforms.resize import resize_to, target_size
from libradet.export.resizing import resize_onto_canvas, resize_weights, target_sides


def random_image(height, width, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=rng)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 1500), st.integers(0, 1000))
def test_target_sides_are_those_of_the_data_loader(height, width, short, more):
    size = short, short + more
    assert target_sides(height, width, size, torch.zeros(0)).tolist() == list(target_size(height, width, size))


@pytest.mark.parametrize("size", [(800, 1333), (480, 640), (600, 1000)])
def test_sides_whose_half_pixel_float64_rounds_down(size):
    sides = np.arange(1, 2500)
    height, width = sides[:, None], sides[None, :]
    smaller, larger = np.minimum(height, width), np.maximum(height, width)
    exact = np.minimum(
        (2 * height * size[0] + smaller) // (2 * smaller), (2 * height * size[1] + larger) // (2 * larger)
    )
    in_float64 = (height * np.minimum(size[0] / smaller, size[1] / larger) + 0.5).astype(np.int64)
    different = np.argwhere(in_float64 != exact.clip(1)) + 1
    assert len(different) > 5
    for height, width in different[:40].tolist():
        assert target_sides(height, width, size, torch.zeros(0)).tolist() == list(target_size(height, width, size))


def float64_weights(source, target):
    """Return torch's weights and their sum, in float64 from the distances to cell centers."""
    scale = source / target
    centers = (np.arange(target) + 0.5)[:, None] * scale
    weights = (1 - np.abs(np.arange(source) + 0.5 - centers) / max(scale, 1)).clip(0)
    weights = weights / weights.sum(1, keepdims=True)
    bits = max(b for b in range(23) if np.floor(weights.max() * 2**b + 0.5) < 2**15)
    return np.floor(weights * 2**bits + 0.5), 2**bits


@pytest.mark.parametrize("source", [*range(1, 24), 97, 240, 333, 1201, 4001])
def test_weights_are_those_of_float64(source):
    for target in (*range(1, 24), 31, 64, 107, 240, 333):
        weights, unit = resize_weights(source, torch.tensor(target), target + 3)
        expected, expected_unit = float64_weights(source, target)
        assert unit == expected_unit
        assert np.array_equal(weights[:target].numpy(), expected), target
        assert not weights[target:].any()


def test_original_size():
    assert target_sides(7, 9, "original", torch.zeros(0)).tolist() == [7, 9]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        *[((48, 64), (80, 107)), ((333, 500), (80, 120)), ((97, 61), (64, 40)), ((31, 47), (31, 47))],
        *[((1, 1), (17, 9)), ((50, 3), (7, 90)), ((40, 40), (41, 39)), ((64, 64), (16, 128))],
    ],
)
def test_pixels_are_those_of_the_data_loader(source, target):
    original = random_image(*source)
    canvas = resize_onto_canvas(original[None], torch.tensor(target), target[0] + 5, target[1] + 11)
    assert torch.equal(canvas[0, :, : target[0], : target[1]], resize_to(original, *target).float())
    assert not canvas[:, :, target[0] :].any()
    assert not canvas[:, :, :, target[1] :].any()


def test_strong_downscaling_differs_only_in_rare_ties():
    original = random_image(1200, 1600)
    canvas = resize_onto_canvas(original[None], torch.tensor([60, 80]), 60, 80)
    difference = (canvas[0] - resize_to(original, 60, 80).float()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3


def test_images_of_a_batch_are_independent():
    images = torch.stack([random_image(30, 40, seed) for seed in range(3)])
    batch = resize_onto_canvas(images, torch.tensor([45, 60]), 64, 64)
    for one, resized in zip(images, batch, strict=True):
        assert torch.equal(resize_onto_canvas(one[None], torch.tensor([45, 60]), 64, 64)[0], resized)
