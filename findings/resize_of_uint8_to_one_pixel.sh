#!/usr/bin/env bash
# Versions: torch 2.15.0, torchvision 0.29.2.
# Behavior: torchvision.transforms.v2.functional.resize, with its default antialias=True, of an RGB image to 1 x 1.
# Output seen, 2026-11-27: with uint8 it raises "num_channels == unpacked_output.size(0) INTERNAL ASSERT FAILED", from a
# kernel for processors with AVX; with float32 it returns the mean color. 8 x 1 and 1 x 8 work with both.
# Consequence: a mean color, or a tiny thumbnail, of a uint8 image must be computed in float32.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cd "$folder"
cat > resize.py <<'PY'
import torch
import torchvision
from torchvision.transforms.v2.functional import resize

print("torch", torch.__version__, "torchvision", torchvision.__version__, torch.backends.cpu.get_cpu_capability())
messages = {}
for size in ((1, 1), (8, 1), (1, 8)):
    for dtype in (torch.uint8, torch.float32):
        try:
            resize(torch.zeros(3, 64, 64, dtype=dtype), size)
            messages[size, dtype] = ""
        except RuntimeError as e:
            messages[size, dtype] = str(e)
        print(size, dtype, messages[size, dtype][:100] or "works")
failing = [key for key, message in messages.items() if message]
assert failing == [((1, 1), torch.uint8)], "other sizes fail now"
assert "INTERNAL ASSERT" in messages[(1, 1), torch.uint8], "the message has changed"
PY
venv/bin/python resize.py
