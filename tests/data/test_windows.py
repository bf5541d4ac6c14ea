"""Windows of images have the pixels of the whole image; TIFF files are read only where a window lies."""

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from libradet.data import tiff, windows
from libradet.data.image_headers import ImageHeader, read_header
from libradet.data.image_io import read_image
from libradet.data.tiff import is_windowed
from libradet.data.windows import DecodedImage, TiffWindows, open_windows, reduced_image
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
    with open_windows(tmp_path / "a.tif", bit_depth=12) as image:
        for window in WINDOWS:
            assert torch.equal(image.read(window), whole[:, *window.slices])


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


@pytest.mark.parametrize(
    ("options", "kept"),
    [({"tile": (64, 64)}, 1), ({"tile": (64, 64), "compression": "zlib"}, 4), ({"compression": "zlib"}, 8)],
)
def test_decoded_segments_are_kept_up_to_a_limit(tmp_path, monkeypatch, options, kept):
    tifffile = pytest.importorskip("tifffile")
    monkeypatch.setattr(windows, "TILE_CACHE_BYTES", 4 * 64 * 64 * 3)
    monkeypatch.setattr(windows, "STRIP_CACHE_BYTES", 8 * 10 * 300 * 3)
    path = tmp_path / "a.tif"
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", rowsperstrip=None if "tile" in options else 10, **options)
    with open_windows(path) as image:
        for top in range(0, 300, 100):
            assert torch.equal(
                image.read(Window(top, 0, 100, 300)), torch.from_numpy(pixels[top : top + 100]).permute(2, 0, 1)
            )
        assert len(image._cache) == kept


@pytest.mark.parametrize("kind", [*TIFFS, "jpeg", "other codec"])
def test_files_too_large_for_pillow_are_read_by_window(tmp_path, monkeypatch, kind):
    """Their limit is lowered here: above twice of it, Pillow raises DecompressionBombError."""
    tifffile = pytest.importorskip("tifffile")
    if kind in ("lzw", "jpeg"):
        pytest.importorskip("imagecodecs")
    path = tmp_path / "a.tif"
    options = {"photometric": "rgb", "tile": (64, 64), "compression": "jpeg"} if kind == "jpeg" else TIFFS.get(kind)
    if kind == "other codec":
        Image.fromarray(gradient()).save(path, compression="packbits")
    else:
        tifffile.imwrite(path, gradient(), **options)
    whole = read_image(path)
    assert is_windowed(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    assert read_header(path) == read_header(path, decode=True) == ImageHeader(WIDTH, HEIGHT)
    with open_windows(path) as image:
        for window in WINDOWS:
            difference = image.read(window).int() - whole[:, *window.slices].int()
            assert difference.abs().max() <= 1 * (kind == "jpeg")
    with pytest.raises(UserError, match=r"a\.tif: the image is too large to be decoded whole: use tiles \(--tiles"):
        read_image(path)


def lacks_imagecodecs(*_):
    raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")


@pytest.mark.parametrize("missing", ["tifffile", "imagecodecs"])
def test_what_is_missing_to_read_a_file_by_window_is_named(tmp_path, monkeypatch, missing):
    path = tmp_path / "a.tif"
    Image.fromarray(gradient()).save(path, compression="tiff_lzw")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    if missing == "tifffile":
        monkeypatch.setattr(tiff, "has_tifffile", lambda: False)
    else:
        pytest.importorskip("tifffile")
        monkeypatch.setattr(tiff, "_can_decode", lacks_imagecodecs)
    expected = f"needs {missing}: pip install 'libradet[large_images]'"
    assert read_header(path).problem.endswith(expected)
    with pytest.raises(UserError) as error:
        read_image(path)
    assert str(error.value).startswith(f"{path}: the image is too large to be decoded whole, and reading it by window")
    assert expected in str(error.value)


def test_other_files_that_are_too_large_are_to_be_converted(tmp_path, monkeypatch):
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    assert "convert it to a TIFF file in tiles and use --tiles" in read_header(tmp_path / "a.png").problem


def test_headers_of_files_with_windows_are_read_without_decoding(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, gradient(), photometric="rgb", tile=(64, 64))
    monkeypatch.setattr(TiffImageFile, "load", lambda image: pytest.fail("decoded as a whole"))
    assert read_header(path) == read_header(path, decode=True) == ImageHeader(WIDTH, HEIGHT)
    path.write_bytes(path.read_bytes()[:-5000])
    assert read_header(path).problem.startswith("cannot be decoded")


def test_damage_within_a_large_file_is_detected_by_decoding_it(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, gradient(), photometric="rgb", tile=(64, 64), compression="deflate")
    with tifffile.TiffFile(path) as file:
        last = file.pages.first.dataoffsets[-1]
    with open(path, "r+b") as file:
        file.seek(last)
        file.write(b"\xff" * 20)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    assert read_header(path).problem is None
    assert read_header(path, decode=True).problem.startswith("cannot be decoded")
