"""Generated images: all modes, formats and orientations, truncated, damaged, misnamed, and decompression bombs."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from libradet.data.image_headers import read_header
from libradet.data.image_io import read_image
from libradet.errors import UserError
from stress.mutation import Rng, damage_bytes, pick

FORMATS = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "BMP": ("RGB", "L", "P", "1"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("RGB", "RGBA", "L", "CMYK", "I;16", "F", "P", "1"),
    "GIF": ("P", "L"),
    "PPM": ("RGB", "L", "1"),
}
SUFFIXES = [".jpg", ".png", ".bmp", ".webp", ".tif", ".gif", ".ppm", ".jpeg", ""]


def image(rng: Rng, base: Path, folder: Path, canary: Path) -> str | None:
    """Generate and read an image that is valid, damaged or malicious."""
    how = rng.random()
    name = pick(rng, ["x", "a b", "ü", "new\nline", "-x", "[red]"]) + pick(rng, SUFFIXES)
    path = folder / name
    if how < 0.25:
        path.write_bytes(pick(rng, malicious_files(canary)))
        return _read(path, whole=False)
    kind, content, orientation = _generate(rng)
    if how < 0.6:
        path.write_bytes(content)
        return _read(path, whole=True) or _compare(path, content, orientation, kind)
    path.write_bytes(damage_bytes(rng, content))
    return _read(path, whole=False)


def _generate(rng: Rng) -> tuple[str, bytes, int]:
    kind = pick(rng, list(FORMATS))
    mode = pick(rng, list(FORMATS[kind]))
    width, height = (int(pick(rng, [1, 2, 3, 17, 40, 64, 301])) for _ in range(2))
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.uint16))
    else:
        image = image.convert(mode) if mode not in ("F", "LA") else image.convert("L").convert(mode)
    orientation, options = 1, {}
    if kind in ("JPEG", "PNG", "WEBP") and rng.random() < 0.6:
        orientation = int(rng.integers(0, 11))
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif.tobytes() if rng.random() < 0.9 else damage_bytes(rng, exif.tobytes())
    if kind in ("GIF", "WEBP", "TIFF", "PNG") and rng.random() < 0.2:
        options |= {"save_all": True, "append_images": [image.copy() for _ in range(3)]}
    if kind == "JPEG" and rng.random() < 0.3:
        options["progressive"] = True
    file = io.BytesIO()
    image.save(file, kind, **options)
    return kind, file.getvalue(), orientation


def _read(path: Path, whole: bool) -> str | None:
    """Check that header and pixels agree on validity and size."""
    quick, full = read_header(path), read_header(path, decode=True)
    try:
        pixels = read_image(path)
    except UserError as error:
        if full.problem is None:
            return f"valid for the check, but decoding fails: {error}"
        if whole:
            return f"valid, but rejected: {error}"
        return None
    if full.problem is not None:
        return f"the check reports that it {full.problem}, but it is decoded"
    if quick.problem is not None:
        return f"its header {quick.problem}, but it is decoded"
    if tuple(pixels.shape) != (3, *full.upright_size[::-1]) or pixels.dtype != torch.uint8:
        return f"has the shape {tuple(pixels.shape)} for an upright size of {full.upright_size}"
    try:
        reduced = read_image(path, target_size=(8, 8))
    except UserError as error:
        return f"is decoded at full size, but not at reduced size: {error}"
    return None if reduced.shape[0] == 3 else f"has the shape {tuple(reduced.shape)} at reduced size"


def _compare(path: Path, content: bytes, orientation: int, kind: str) -> str | None:
    """Compare pixels with Pillow's, in modes whose conversion is unambiguous."""
    with Image.open(io.BytesIO(content)) as image:
        if image.mode not in ("RGB", "L", "CMYK", "1") or "transparency" in image.info:
            return None
        try:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except Exception:  # Pillow itself fails on damaged EXIF
            return None
    pixels = read_image(path).permute(1, 2, 0).numpy()
    if pixels.shape != expected.shape:
        return f"orientation {orientation}: {pixels.shape} instead of {expected.shape}"
    # Two decoders of JPEG may round differently.
    off = int(np.abs(pixels.astype(int) - expected).max())
    return f"{kind}, orientation {orientation}: pixels are off by {off}" if off > (2 if kind == "JPEG" else 0) else None


def malicious_files(canary: Path) -> list[bytes]:
    """Return decompression bombs, programs and other files to be named as images."""
    huge = 0x7FFFFFFF
    postscript = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n({canary}) (w) file closefile\nshowpage\n"
    return [
        _png(huge, huge),
        _png(100_000, 100_000),
        _png(20_000, 20_000),
        _png(0, 5),
        _png(30_000, 30_000, b"\0" * 10_000),
        b"P6\n100000 100000\n255\n" + b"x" * 100,
        b"P6\n" + b"9" * 5000 + b" 5\n255\n",
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 100_000, 100_000, 1, 24, 0, 0, 0, 0, 0, 0),
        b"GIF89a"
        + struct.pack("<HH", 65535, 65535)
        + b"\x80\0\0"
        + b"\0" * 6
        + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;",
        _tiff(100_000, 100_000),
        _tiff(65_000, 65_000),
        b"RIFF\xff\xff\xff\x7fWEBPVP8X\x0a\0\0\0\x10\0\0\0\xff\xff\xff\xff\xff\xff" + b"\0" * 100,
        postscript.encode(),
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0\0\x10JFIF",
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
        b"%PDF-1.4\n",
        b"MZ" + b"\0" * 100,
        b"\0" * 1000,
        b"",
    ]


def _png(width: int, height: int, pixels: bytes = b"\0") -> bytes:
    def part(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(pixels)) + part(b"IEND", b"")


def _tiff(width: int, height: int) -> bytes:
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 200), (277, 3, 1)]
    tags += [(278, 4, height), (279, 4, width * height & 0xFFFFFFFF)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0" * 100
