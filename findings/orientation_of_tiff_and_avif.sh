#!/usr/bin/env bash
# Versions: pillow 13.0.0, opencv-python-headless 5.0.0.93, tifffile 2026.3.3, imageio 2.38.1.
# Behavior: one image of 60 x 40 px with the EXIF orientation 6 (to be rotated by 90 degrees), saved as JPEG, PNG, WebP, TIFF
# and AVIF, and its size as each library reads it.
# Output seen, 2026-11-28: the upright size is 40 x 60. OpenCV rotates JPEG, PNG, WebP and TIFF, but not AVIF; with
# IMREAD_UNCHANGED it rotates TIFF alone. Pillow rotates TIFF alone, with the upright size as soon as it is opened, while
# getexif() still has the tag 6 until the pixels are loaded; ImageOps.exif_transpose makes all five upright. imageio
# and tifffile rotate nothing. There is no message.
# Consequence: boxes that were drawn in one program are beside the objects in another, depending on the format that the images
# were saved in. A program that rotates by the tag of getexif() rotates a TIFF twice.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pillow==13.0.0 opencv-python-headless==5.0.0.93 \
    tifffile==2026.3.3 imageio==2.38.1 numpy==2.4.6
cd "$folder"
cat > read.py <<'PY'
import cv2
import imageio
import imageio.v3
import numpy as np
import PIL
import tifffile
from PIL import Image, ImageOps

STORED, UPRIGHT, ORIENTATION = (60, 40), (40, 60), 0x0112
exif = Image.Exif()
exif[ORIENTATION] = 6
READERS = {
    "Pillow": lambda path: np.asarray(Image.open(path)),
    "Pillow, exif_transpose": lambda path: np.asarray(ImageOps.exif_transpose(Image.open(path))),
    "OpenCV": lambda path: cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR),
    "OpenCV, unchanged": lambda path: cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED),
    "imageio": imageio.v3.imread,
    "tifffile": tifffile.imread,
}
print("pillow", PIL.__version__, "opencv", cv2.__version__, "tifffile", tifffile.__version__, "imageio", imageio.__version__)
rotated = {name: [] for name in READERS}
for suffix in ("jpg", "png", "webp", "tif", "avif"):
    path = f"image.{suffix}"
    Image.new("RGB", STORED, "white").save(path, exif=exif)
    for name, reader in READERS.items():
        if name == "tifffile" and suffix != "tif":
            continue
        size = reader(path).shape[1::-1]
        assert size in (STORED, UPRIGHT)
        if size == UPRIGHT:
            rotated[name].append(suffix)
for name, suffixes in rotated.items():
    print(f"{name}: upright are {suffixes}")
assert rotated["Pillow"] == rotated["OpenCV, unchanged"] == ["tif"], "Pillow, or IMREAD_UNCHANGED, has changed"
assert rotated["Pillow, exif_transpose"] == ["jpg", "png", "webp", "tif", "avif"], "exif_transpose has changed"
assert rotated["OpenCV"] == ["jpg", "png", "webp", "tif"], "OpenCV has changed"
assert rotated["imageio"] == rotated["tifffile"] == [], "imageio or tifffile has changed"
image = Image.open("image.tif")
opened = image.size, image.getexif().get(ORIENTATION)
image.load()
loaded = image.size, image.getexif().get(ORIENTATION)
print("size and tag of the TIFF in Pillow: opened", opened, "loaded", loaded)
assert opened == (UPRIGHT, 6) and loaded == (UPRIGHT, None), "Pillow's tag of TIFF has changed"
PY
venv/bin/python read.py
