#!/usr/bin/env bash
# Installs the wheel in an environment that holds nothing else, far from the sources, and trains, predicts and exports with it.
#   packaging/check_dist.sh DIST CONSTRAINTS UV PYTHON
set -euo pipefail
dist=$(realpath "$1") constraints=$(realpath "$2") uv=$(realpath "$3") python=$(realpath -s "$4")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV

wheel=$(echo "$dist"/libradet-*.whl) sdist=$(echo "$dist"/libradet-*.tar.gz)
"$uv" venv --quiet --python "$python" venv
# Versions as pinned, which is what the cache holds after `make setup`.
grep -v '^-' "$constraints" > constraints.txt
"$uv" pip install --quiet --link-mode symlink --python venv/bin/python --constraint constraints.txt "$wheel[export]"

venv/bin/python - "$wheel" "$sdist" <<'PYTHON'
import sys, tarfile, zipfile
from importlib.metadata import version
from pathlib import Path
import libradet

place = Path(libradet.__file__)
assert Path.cwd() in place.parents, f"imported from {place}"
wheel, sdist = zipfile.ZipFile(sys.argv[1]).namelist(), tarfile.open(sys.argv[2]).getnames()
assert f"libradet-{version('libradet')}-" in sys.argv[1], sys.argv[1]
held = {"libradet/py.typed", "libradet/experiments/tables/table1.yaml", "libradet/experiments/presets/small.yaml"}
assert held <= set(wheel), held - set(wheel)
assert all(name.startswith(("libradet/", "libradet-")) for name in wheel), "the wheel holds more than the package"
assert any(name.endswith("/src/libradet/py.typed") for name in sdist), "the sdist lacks files"
PYTHON

export OMP_NUM_THREADS=1
bin=venv/bin/libradet
$bin --version
$bin models > models.txt && grep -q libra_faster_rcnn models.txt
$bin data synthesize data --train 4 --val 2 --size 96 72 > synthesize.txt
$bin train --data data --output_dir run --backbone resnet18 --max_steps 1 --max_epochs 1 --batch_size 2 --num_workers 0 --num_val_images_logged 0 \
    --detector.image.size '[72,96]' --detector.pyramid.channels 16 --detector.roi.fc_dim 32 > train.txt
$bin predict run/best.safetensors data/images --out found --threshold 0 > predict.txt
test -s found/predictions.json
for ending in pt2 onnx; do
    $bin export run/best.safetensors --out model.$ending > export.txt
    $bin predict model.$ending data/images --out found_$ending --threshold 0 > predict.txt
    test -s found_$ending/predictions.json
done
echo "$(basename "$wheel"): installed alone, trains, predicts and exports"
