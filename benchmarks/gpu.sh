#!/bin/sh
# All GPU checks: tests, host-device synchronization, CUDA graphs, throughput compared with torchvision, and a profile.
# From the repository's root:
#     sh benchmarks/gpu.sh [PYTHON] > gpu.txt 2>&1
python=${1:-.venv/bin/python}
export PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}"
nvidia-smi
"$python" -m pytest -m gpu
for part in synchronization graphs throughput profile; do
    echo "== $part"
    "$python" -m benchmarks.gpu "$part" || echo "$part failed"
done
