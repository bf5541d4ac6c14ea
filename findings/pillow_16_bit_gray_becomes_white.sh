#!/usr/bin/env bash
# Versions: pillow 13.0.0, opencv-python-headless 5.0.0.93 (numpy 2.4.6).
# Behavior: a gray ramp of 16 bits from 0 to 65535, and one of 12 bits, saved as PNG and as TIFF, and a ramp of float32 from 0
# to 1 as TIFF, opened by Pillow and converted to RGB, as data loaders do; the same files read by OpenCV.
# Output seen, 2026-11-28: Pillow cuts values off at 255, so 99.6 % of the ramp is white, and 94 % of the one of 12 bits; the
# ramp of float32 is 0 except for its last pixel, 1. OpenCV divides 16 bits by 256. A PNG of 16 bits with three colors is
# divided by Pillow as well. There is no message.
# Right value: 8 bits of a value v of 16 bits are v / 257, to within 1, so the ramp has to have all 256 grays.
# Consequence: radiographs, thermal, satellite and microscope images are white areas to a detector that reads them with
# convert("RGB"); it trains on boxes around nothing. Values have to be scaled before, in numpy.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pillow==13.0.0 opencv-python-headless==5.0.0.93 \
    numpy==2.4.6
cd "$folder"
cat > read.py <<'PY'
import cv2
import numpy as np
from PIL import Image
from PIL import __version__ as pillow_version

print("pillow", pillow_version, "opencv", cv2.__version__)
full = np.arange(65536, dtype=np.uint16).reshape(256, 256)
expected = full / 257
for name, ramp, white in (("16 bits", full, 0.996), ("12 bits", full % 4096, 0.938)):
    for path in ("gray.png", "gray.tif"):
        Image.fromarray(ramp).save(path)
        read = np.asarray(Image.open(path).convert("RGB"))
        share = (read == 255).mean()
        print(f"{name}, {path}: {share:.4f} white in Pillow")
        assert np.array_equal(read[..., 0], ramp.clip(max=255)) and round(share, 3) == white, "convert has changed"
        by_opencv = cv2.imread(path)[..., 0]
        assert np.array_equal(by_opencv, ramp // 256), "OpenCV has changed"
        if name == "16 bits":
            print("largest difference of OpenCV from v / 257:", np.abs(by_opencv - expected).max())
            assert np.abs(by_opencv - expected).max() < 1
cv2.imwrite("color.png", np.repeat(full[..., None], 3, axis=2))
color = np.asarray(Image.open("color.png").convert("RGB"))
print("16 bits with three colors: grays", len(np.unique(color)))
assert np.abs(color[..., 0] - expected).max() <= 1, "three colors have changed"
Image.fromarray(np.linspace(0, 1, 1000, dtype=np.float32)[None]).save("float.tif")
values = np.asarray(Image.open("float.tif").convert("RGB"))[0, :, 0]
print("float32 from 0 to 1:", np.unique(values, return_counts=True))
assert values[:-1].max() == 0 and values[-1] == 1, "float32 has changed"
PY
venv/bin/python read.py
