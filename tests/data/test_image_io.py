"""Image files of all formats and modes, against PIL."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from libradet.data import image_io
from libradet.data.image_headers import ImageHeader, read_header, read_headers
from libradet.data.image_io import MIN_REDUCTION_MARGIN, pil_to_tensor, read_image
from libradet.errors import UserError
from tests.helpers.data_building import sample_image


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, suffix):
    path = tmp_path / f"x.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    sample_image(40, 28).save(path, exif=exif)
    with Image.open(path) as image:
        shown = ImageOps.exif_transpose(image)
    assert read_header(path).upright_size == shown.size
    assert read_image(path).equal(pixels(shown))
    with Image.open(path) as image:
        assert pil_to_tensor(image).equal(pixels(shown))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_can_be_ignored(tmp_path, orientation):
    path = tmp_path / "x.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    sample_image(40, 28).save(path, exif=exif)
    assert read_header(path) == ImageHeader(40, 28, orientation)
    with Image.open(path) as image:
        assert read_image(path, apply_exif=False).equal(pixels(image))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LAB"])
def test_color_modes(tmp_path, mode):
    image = sample_image(40, 28).convert(mode)
    path = tmp_path / "x.tif"
    if mode == "HSV":
        assert pil_to_tensor(image).equal(pixels(image))
        return
    image.save(path)
    with Image.open(path) as stored:
        assert read_image(path).equal(pixels(stored))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_blended_with_white(mode):
    image = sample_image(40, 28).convert("RGBA")
    image.putalpha(Image.fromarray(np.repeat(np.array([[255] * 20 + [0] * 20], np.uint8), 28, 0)))
    image = image if mode == "RGBA" else image.convert("LA") if mode == "LA" else image.quantize(64).convert("PA")
    shown = pil_to_tensor(image)
    assert (shown[:, :, 20:] == 255).all()
    assert (shown[:, :, :20] == pixels(image)[:, :, :20]).all()


def test_transparent_color_of_a_palette(tmp_path):
    image = Image.new("P", (10, 8), 1)
    image.putpalette([0, 0, 0, 200, 10, 10])
    image.putpixel((3, 3), 0)
    image.save(tmp_path / "x.png", transparency=0)
    shown = read_image(tmp_path / "x.png")
    assert shown[:, 3, 3].tolist() == [255, 255, 255]
    assert shown[:, 0, 0].tolist() == [200, 10, 10]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits(tmp_path, suffix):
    values = np.linspace(0, 65535, 40 * 28).reshape(28, 40).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"x.{suffix}")
    shown = read_image(tmp_path / f"x.{suffix}")
    np.testing.assert_array_equal(shown[0], values >> 8)
    assert shown[0].equal(shown[1])
    assert shown[1].equal(shown[2])


def test_floats_are_fractions_or_levels(tmp_path):
    fractions = np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)
    Image.fromarray(fractions).save(tmp_path / "x.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif")[0], np.rint(fractions * 255))
    np.testing.assert_array_equal(pil_to_tensor(Image.fromarray(fractions * 200))[0], np.rint(fractions * 200))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif", "tif"])
def test_truncated_files_are_detected(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"x.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    assert read_header(path).problem is None
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.7)])
    assert read_header(path).problem is not None
    with pytest.raises(UserError, match=f"x.{suffix}"):
        read_image(path)


def test_valid_jpeg_is_not_decoded(tmp_path, monkeypatch):
    path = tmp_path / "x.jpg"
    sample_image(40, 28).save(path)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    assert read_header(path) == ImageHeader(40, 28)
    assert read_headers([path, path]) == [ImageHeader(40, 28)] * 2


def test_trailing_data_is_accepted(tmp_path):
    path = tmp_path / "x.jpg"
    sample_image(40, 28).save(path)
    path.write_bytes(path.read_bytes() + b"maker's notes")
    assert read_header(path).problem is None


def test_damage_in_the_middle_is_detected_by_decoding(tmp_path):
    path = tmp_path / "x.png"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert read_header(path).problem is None
    assert read_header(path, decode=True).problem is not None


def test_missing_files_and_folders(tmp_path):
    assert read_header(tmp_path / "gone.jpg").problem == "is missing"
    (tmp_path / "folder.jpg").mkdir()
    assert read_header(tmp_path / "folder.jpg").problem is not None
    with pytest.raises(UserError, match=r"gone\.jpg: the image is missing"):
        read_image(tmp_path / "gone.jpg")


def test_damaged_exif_is_ignored(tmp_path):
    path = tmp_path / "x.jpg"
    sample_image(40, 28).save(path, exif=b"Exif\0\0garbage that is no TIFF header")
    assert read_header(path) == ImageHeader(40, 28)
    assert read_image(path).shape == (3, 28, 40)


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return a color image with structure at every scale, as photographs have."""
    generator = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for octave in range(8):
        side = 2**octave
        grain = generator.normal(size=(height // side + 1, width // side + 1, 3)) * 2 ** (octave / 2)
        resized = Image.fromarray(np.clip(127 + 12 * grain, 0, 255).astype(np.uint8)).resize((width, height), 3)
        total += np.asarray(resized).astype(float) - 127
    return Image.fromarray(np.clip(127 + total, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 20}])
def test_pixels_do_not_depend_on_the_decoder(tmp_path, monkeypatch, mode, options):
    if image_io.decode_jpeg is None:
        pytest.skip("this torchvision decodes no JPEG")
    path = tmp_path / "x.jpg"
    photograph(333, 247).convert(mode).save(path, **options)
    fast = read_image(path)
    monkeypatch.setattr(image_io, "decode_jpeg", None)
    assert fast.equal(read_image(path))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_large_jpeg_is_decoded_at_reduced_size(tmp_path, orientation, scale):
    path = tmp_path / "x.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    photograph(487, 365).save(path, exif=exif)
    shape = read_image(path).shape[1:]
    assert shape == ((365, 487) if orientation == 1 else (487, 365))
    needed = tuple(int(side // scale / MIN_REDUCTION_MARGIN) for side in shape)
    reduced = read_image(path, target_size=needed).shape[1:]
    assert reduced == tuple(-(-side // scale) for side in shape)
    # A pixel more in one direction is too much for that scale.
    more = (needed[0], needed[1] + 2)
    assert read_image(path, target_size=more).shape[1:] == tuple(-(-side // max(1, scale // 2)) for side in shape)
    assert read_image(path, apply_exif=False, target_size=(365, 487)).shape[1:] == (365, 487)


@pytest.mark.parametrize("scale", [2, 4])
def test_reduced_decoding_error_is_bounded(tmp_path, scale):
    """The bound stated for MIN_REDUCTION_MARGIN holds."""
    path = tmp_path / "x.jpg"
    photograph(960, 720).save(path, quality=92)
    needed = [int(720 / scale / MIN_REDUCTION_MARGIN), int(960 / scale / MIN_REDUCTION_MARGIN)]
    small = read_image(path, target_size=(needed[0], needed[1]))
    assert small.shape[1:] == (720 // scale, 960 // scale)

    def difference(sample_image: torch.Tensor) -> float:
        exact = F.resize(read_image(path), needed, antialias=True).float()
        return float((sample_image.float() - exact).abs().mean())

    bicubic = F.resize(read_image(path), needed, InterpolationMode.BICUBIC, antialias=True)
    assert difference(F.resize(small, needed, antialias=True)) < min(2, 1.5 * difference(bicubic))


def test_other_formats_are_decoded_in_full(tmp_path):
    photograph(487, 365).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png", target_size=(40, 50)).shape == (3, 365, 487)


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n", b"/* XPM */\nstatic char * x[] = {\n"]
)
def test_postscript_and_xpm_are_refused(tmp_path, content):
    (tmp_path / "x.jpg").write_bytes(content)
    assert read_header(tmp_path / "x.jpg", decode=True).problem == "is not in a supported image format"
    with pytest.raises(UserError, match="not in a supported image format"):
        read_image(tmp_path / "x.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "TGA"])
def test_supported_formats(tmp_path, kind):
    more = {"save_all": True, "append_images": [sample_image(20, 10, 1)]} if kind == "MPO" else {}
    sample_image(20, 10).save(tmp_path / "x.jpg", kind, **more)
    assert read_header(tmp_path / "x.jpg", decode=True).upright_size == (20, 10)
    assert read_image(tmp_path / "x.jpg").shape == (3, 10, 20)
