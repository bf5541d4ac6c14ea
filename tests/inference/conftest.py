"""Fixtures of the tests of inference."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    """A folder with three images, one of them damaged, a text file, and an image in a subfolder."""
    images_dir = tmp_path / "images"
    (images_dir / "deep").mkdir(parents=True)
    for seed, (name, shape) in enumerate({"b.jpg": (40, 60), "a.PNG": (50, 30), "deep/a.png": (20, 20)}.items()):
        pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images_dir / name)
    (images_dir / "c.jpg").write_bytes(b"no image at all")
    (images_dir / "notes.txt").write_text("no image either")
    return images_dir
