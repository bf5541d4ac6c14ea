#!/usr/bin/env bash
# Versions: datasets 5.2.0.
# Behavior: load_dataset("imagefolder") with metadata.jsonl beside the folders train and validation, and with a
# metadata.jsonl that does not list every image of its folder.
# Output seen, 2026-11-27: with folders of splits, a metadata.jsonl beside them is ignored without a message: there is no
# column objects, only a label, which is None. Images without a row are not in the dataset, without a message.
# Consequence: annotations, or images without objects, are silently absent.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check datasets==5.2.0 pillow==13.0.0
cd "$folder"
cat > load.py <<'PY'
import json
import os
from pathlib import Path

os.environ["HF_DATASETS_OFFLINE"] = "1"
import datasets
from PIL import Image

datasets.disable_progress_bars()

def write(root, images, rows):
    for name in images:
        Path(root, name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 80)).save(Path(root, name))
    lines = [json.dumps({"file_name": name, "objects": {"bbox": [[1, 2, 30, 40]], "categories": [0]}}) for name in rows]
    Path(root, "metadata.jsonl").write_text("\n".join(lines))
    return datasets.load_dataset("imagefolder", data_dir=root, cache_dir=f"{root}-cache")

print("datasets", datasets.__version__)
images = ["train/a.png", "train/b.png", "validation/c.png"]
split = write("split", images, images)
print("metadata beside the folders of splits:", {name: part.column_names for name, part in split.items()}, "label", split["train"]["label"])
assert all(part.column_names == ["image", "label"] for part in split.values()), "metadata beside split folders is now read"
partial = write("partial", ["a.png", "b.png", "c.png"], ["a.png", "b.png"])
print("images in the folder: 3, rows of metadata: 2, images in the dataset:", len(partial["train"]))
assert len(partial["train"]) == 2, "images without a row are now in the dataset"
PY
venv/bin/python load.py
