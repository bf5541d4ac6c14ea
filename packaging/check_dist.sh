#!/usr/bin/env bash
# Installs the wheel in an empty environment, outside of the source tree, and trains, predicts and exports with it.
#   packaging/check_dist.sh DIST CONSTRAINTS UV PYTHON
set -euo pipefail
dist=$(realpath "$1") constraints=$(realpath "$2") uv=$(realpath "$3") python=$(realpath -s "$4")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV

wheel=$(echo "$dist"/libradet-*.whl) sdist=$(echo "$dist"/libradet-*.tar.gz)
"$uv" venv --quiet --python "$python" venv
# Pinned versions, which `make setup` has put into the cache.
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
required = {"libradet/py.typed", "libradet/experiments/tables/table1.yaml", "libradet/experiments/presets/small.yaml"}
assert required <= set(wheel), required - set(wheel)
assert all(name.startswith(("libradet/", "libradet-")) for name in wheel), "the wheel contains more than the package"
assert any(name.endswith("/src/libradet/py.typed") for name in sdist), "files are missing in the sdist"
PYTHON

export OMP_NUM_THREADS=1
bin=venv/bin/libradet
$bin --version
$bin models > models.txt && grep -q libra_faster_rcnn models.txt
$bin data synthesize data --train 4 --val 2 --size 96 72 > synthesize.txt
$bin train --data data --output_dir run --backbone resnet18 --max_steps 1 --max_epochs 1 --batch_size 2 --num_workers 0 --num_val_images_logged 0 \
    --detector.image.size '[72,96]' --detector.pyramid.channels 16 --detector.roi.fc_dim 32 > train.txt
$bin predict run/best.safetensors data/images --output_dir predictions --score_thresh 0 > predict.txt
test -s predictions/predictions.json
for ending in pt2 onnx; do
    $bin export run/best.safetensors --output model.$ending > export.txt
    $bin predict model.$ending data/images --output_dir predictions_$ending --score_thresh 0 > predict.txt
    test -s predictions_$ending/predictions.json
done
echo "$(basename "$wheel"): trains, predicts and exports in an empty environment"
