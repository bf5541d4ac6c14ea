#!/usr/bin/env bash
# Versions: opencv-python-headless 5.0.0.93, pillow 13.0.0 (numpy 2.4.6).
# Behavior: a TIFF of 60 x 40 px with each of the eight EXIF orientations, without compression and with LZW, read by cv2.imread
# and, from the same bytes, by cv2.imdecode.
# Output seen, 2026-11-28: for the orientations 5 to 8, which exchange width and height, cv2.imread returns None with every
# flag, also with IMREAD_UNCHANGED and IMREAD_IGNORE_ORIENTATION, and logs "can't read data" for a pointer that it expects to
# stay. imdecode returns the upright image of 40 x 60 px. JPEG, PNG and WebP with the same tag are read by both.
# Right value: an orientation above 4 is a transposition, followed by a flip or not, so the upright size is 40 x 60.
# Consequence: images that a camera or scanner took upright are missing in a dataset that skips what it can't read, while
# those taken in landscape are there. cv2.imdecode(np.fromfile(path, np.uint8), flag) reads them.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check opencv-python-headless==5.0.0.93 pillow==13.0.0 \
    numpy==2.4.6
cd "$folder"
cat > read.py <<'PY'
import cv2
import numpy as np
from PIL import Image, ImageOps
from PIL import __version__ as pillow_version

FLAGS = (cv2.IMREAD_COLOR, cv2.IMREAD_GRAYSCALE, cv2.IMREAD_UNCHANGED, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
print("opencv", cv2.__version__, "pillow", pillow_version)
for orientation in range(1, 9):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, options in {"raw.tif": {}, "lzw.tif": {"compression": "tiff_lzw"}, "a.png": {}, "a.webp": {"lossless": True}}.items():
        Image.fromarray(pixels).save(name, exif=exif, **options)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(name)))
        assert upright.shape[:2] == ((60, 40) if orientation > 4 else (40, 60))
        decoded = cv2.imdecode(np.fromfile(name, np.uint8), cv2.IMREAD_COLOR)
        assert np.array_equal(decoded[..., ::-1], upright), "imdecode has changed"
        read = [cv2.imread(name, flag) for flag in FLAGS]
        print(orientation, name, "imread:", [image if image is None else image.shape[1::-1] for image in read])
        if name.endswith(".tif") and orientation > 4:
            assert all(image is None for image in read), "imread has changed"
        else:
            assert np.array_equal(read[0][..., ::-1], upright), "imread of the others has changed"
PY
venv/bin/python read.py 2> errors.txt
grep -m 1 -o "can't read data" errors.txt
