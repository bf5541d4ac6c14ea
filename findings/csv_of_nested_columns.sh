#!/usr/bin/env bash
# Versions: datasets 5.2.0 (pandas 3.1.1, numpy 2.4.6).
# Behavior: Dataset.to_csv of a column with boxes.
# Output seen, 2026-11-27: the column is written as NumPy prints arrays: seven or eight digits, and "..." in place of all
# but six of more than 1,000 boxes. Neither JSON nor Python can parse it.
# Consequence: boxes in the file are rounded, or gone, without a message; Dataset.to_json is exact.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check datasets==5.2.0 pandas==3.1.1 numpy==2.4.6
cd "$folder"
cat > save.py <<'PY'
import csv
import json
import os
import sys

os.environ["HF_DATASETS_OFFLINE"] = "1"
import datasets

datasets.disable_progress_bars()
csv.field_size_limit(sys.maxsize)
print("datasets", datasets.__version__)
boxes = {"few": [[123456.789012, 2.0, 3.0, 4.0]], "many": [[float(i), 2.0, 3.0, 4.0] for i in range(1001)]}
for name, values in boxes.items():
    dataset = datasets.Dataset.from_list([{"file_name": "a.png", "objects": {"bbox": values}}])
    dataset.to_csv(f"{name}.csv", index=False)
    dataset.to_json(f"{name}.jsonl")
    with open(f"{name}.csv", newline="") as file:
        text = next(csv.DictReader(file))["objects"]
    exact = json.loads(open(f"{name}.jsonl").read())["objects"]["bbox"] == values
    print(f"{name}: {len(values)} boxes; to_json is exact: {exact}; to_csv: {' '.join(text.split())[:150]}")
    assert exact, "to_json has changed"
    assert "array(" in text, "to_csv no longer writes NumPy's text"
    assert ("123456.789012" not in text) if name == "few" else ("..." in text and "500." not in text), "to_csv now writes all digits or boxes"
PY
venv/bin/python save.py
