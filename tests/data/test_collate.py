"""Collation and preparation of batches."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from libradet.data.collate import collate, prepare_batch
from libradet.errors import UserError
from libradet.geometry.masks import unpack_masks
from tests.helpers.data_building import sample_image
from tests.helpers.samples import random_sample


@given(st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70), st.integers(0, 5)), min_size=1, max_size=4))
def test_collate_pads_without_loss(shapes):
    samples = [random_sample(w, h, g, index=7 + i, masks=True) for i, (w, h, g) in enumerate(shapes)]
    batch = collate(samples, size_divisible=32)
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


def test_prepare_batch_accepts_files_images_and_arrays(tmp_path):
    image = sample_image(64, 48)
    image.save(tmp_path / "x.png")
    array = np.array(image)
    gray = np.array(image.convert("L"))
    batch = prepare_batch(
        [tmp_path / "x.png", str(tmp_path / "x.png"), image, array, array[:, ::-1][:, ::-1]], (24, 99), 32
    )
    assert batch.images.shape == (5, 3, 32, 32)
    assert all(other.equal(batch.images[0]) for other in batch.images)
    assert batch.labels.tolist() == [[-1]] * 5
    assert batch.scales.tolist() == [[0.5, 0.5]] * 5
    mixed = prepare_batch([gray, np.dstack([array, np.full_like(gray, 255)])], "original", 1)
    assert mixed.images[0, 0].equal(torch.from_numpy(gray))
    assert mixed.images[1].equal(torch.from_numpy(array).permute(2, 0, 1))


def test_prepare_batch_applies_exif_rotation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    sample_image(64, 48).save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as image:
        batch = prepare_batch([image, tmp_path / "x.png"], "original", 1)
    assert batch.sizes.tolist() == [[64, 48]] * 2
    assert batch.images[0].equal(batch.images[1])


@pytest.mark.parametrize(
    "thing", [np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), np.zeros((3, 4, 4, 3), np.uint8), 3]
)
def test_prepare_batch_refuses_other_objects(thing):
    with pytest.raises(UserError, match="is not an image"):
        prepare_batch([thing], "original", 1)
