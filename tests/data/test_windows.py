"""Windows of images have the pixels of the whole image; TIFF files are read only where a window lies."""

import numpy as np
import pytest
import torch
from PIL import Image

from libradet.data.image_io import read_image
from libradet.data.tiff import is_windowed
from libradet.data.windows import DecodedImage, TiffWindows, open_windows, read_window, reduced_image
from libradet.errors import UserError
from libradet.geometry.tiles import Window

WIDTH, HEIGHT = 300, 220
WINDOWS = [Window(0, 0, 220, 300), Window(10, 33, 64, 64), Window(200, 280, 20, 20), Window(63, 127, 2, 2)]


def gradient() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 255 // WIDTH, y * 255 // HEIGHT, (3 * x + y) % 256], 2).astype(np.uint8)


def test_other_files_are_decoded_once(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    assert not is_windowed(tmp_path / "a.png")
    with open_windows(tmp_path / "a.png") as image:
        assert isinstance(image, DecodedImage)
        pixels = image.pixels
        for window in WINDOWS:
            assert torch.equal(image.read(window), pixels[:, *window.slices])
        assert image.read(WINDOWS[1]).untyped_storage().nbytes() == 3 * 64 * 64, "does not keep the image in memory"
    assert image.pixels.numel() == 0, "released"


def test_size_is_checked(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="was replaced: it is 300x220 and was 301x220"):
        open_windows(tmp_path / "a.tif", expected_size=(220, 301))


def test_reduced_image():
    image = DecodedImage(torch.from_numpy(gradient()).permute(2, 0, 1))
    reduced, step = reduced_image(image, 110)
    assert step == 3
    assert torch.equal(reduced, image.pixels[:, ::3, ::3])


TIFFS = {
    "contiguous": {"photometric": "rgb"},
    "tiles": {"photometric": "rgb", "tile": (64, 128)},
    "deflate": {"photometric": "rgb", "tile": (64, 64), "compression": "deflate", "predictor": True},
    "strips": {"photometric": "rgb", "rowsperstrip": 16, "compression": "deflate"},
    "lzw": {"photometric": "rgb", "tile": (64, 64), "compression": "lzw"},
}


@pytest.mark.parametrize("kind", TIFFS)
def test_pixels_are_those_of_pillow(tmp_path, kind):
    tifffile = pytest.importorskip("tifffile")
    if kind == "lzw":
        pytest.importorskip("imagecodecs")
    tifffile.imwrite(tmp_path / "a.tif", gradient(), **TIFFS[kind])
    whole = read_image(tmp_path / "a.tif")
    with open_windows(tmp_path / "a.tif") as image:
        assert isinstance(image, TiffWindows)
        assert (image.height, image.width) == (HEIGHT, WIDTH)
        for window in WINDOWS:
            assert torch.equal(image.read(window), whole[:, *window.slices])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2"])
@pytest.mark.parametrize("tile", [None, (64, 64)])
def test_gray(tmp_path, dtype, tile):
    tifffile = pytest.importorskip("tifffile")
    values = gradient()[..., 0].astype(dtype) * (1 if dtype == "uint8" else 16)
    order = ">" if dtype == ">u2" else "<"
    tifffile.imwrite(tmp_path / "a.tif", values, tile=tile, byteorder=order)
    assert is_windowed(tmp_path / "a.tif")
    whole = read_image(tmp_path / "a.tif", bit_depth=12)
    for window in WINDOWS:
        assert torch.equal(read_window(tmp_path / "a.tif", window, bit_depth=12), whole[:, *window.slices])


@pytest.mark.parametrize(
    "change",
    [
        {"photometric": "miniswhite"},
        {"planarconfig": "separate", "photometric": "rgb"},
        {"photometric": "rgb", "extratags": [(274, 3, 1, 6, False)]},
    ],
)
def test_other_tiffs_are_decoded_whole(tmp_path, change):
    tifffile = pytest.importorskip("tifffile")
    pixels = gradient()[..., 0] if change["photometric"] == "miniswhite" else gradient()
    pixels = pixels.transpose(2, 0, 1) if "planarconfig" in change else pixels
    tifffile.imwrite(tmp_path / "a.tif", pixels, **change)
    assert not is_windowed(tmp_path / "a.tif")


def test_only_segments_of_the_window_are_read(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", gradient(), photometric="rgb", tile=(64, 64), compression="deflate")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        last = file.pages.first.dataoffsets[-1]
    with open(tmp_path / "a.tif", "r+b") as file:
        file.seek(last)
        file.write(b"\xff" * 20)
    with open_windows(tmp_path / "a.tif") as image:
        image.read(WINDOWS[1])
        with pytest.raises(UserError, match=r"a\.tif: the image cannot be decoded"):
            image.read(Window(210, 290, 5, 5))
