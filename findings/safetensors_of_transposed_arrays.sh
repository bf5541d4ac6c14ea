#!/usr/bin/env bash
# Versions: safetensors 0.8.0 (numpy 2.4.6).
# Behavior: save_file and save of safetensors.numpy, whose documentation asks for "contiguous and dense" arrays, of arrays that
# are contiguous in Fortran's order: a transposed matrix, one that np.asfortranarray returned, and one that np.load read
# from a file in that order.
# Output seen, 2026-11-28: the file has the shape of the array, and its numbers in the order of the memory, so they are loaded
# at other places: the rows 0 3, 1 4 and 2 5 of a transposed matrix are loaded as 0 1, 2 3 and 4 5. There is no message.
# np.save keeps the same arrays, and so does save_file after np.ascontiguousarray.
# Right value: an element that is loaded is the element of the array at the same row and column.
# Consequence: weights of linear layers that are transposed on their way from one framework to another load without an error,
# since names and shapes are right, as are their mean and standard deviation; the layers compute something else.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cd "$folder"
cat > save.py <<'PY'
import numpy as np
import safetensors
from safetensors.numpy import load, load_file, save, save_file

matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
np.save("fortran.npy", np.asfortranarray(matrix))
arrays = {"transposed": matrix.T, "np.asfortranarray": np.asfortranarray(matrix), "np.load": np.load("fortran.npy")}
print("safetensors", safetensors.__version__, "numpy", np.__version__)
for name, array in arrays.items():
    assert array.flags.f_contiguous and not array.flags.c_contiguous, "the order has changed"
    in_memory = array.ravel(order="K").reshape(array.shape)
    save_file({"w": array}, "array.safetensors")
    loaded = load_file("array.safetensors")["w"]
    print(f"{name}: saved {array.tolist()}, loaded {loaded.tolist()}")
    assert loaded.shape == array.shape and sorted(loaded.ravel()) == sorted(array.ravel())
    assert np.array_equal(loaded, in_memory) and not np.array_equal(loaded, array), "save_file has changed"
    assert np.array_equal(load(save({"w": array}))["w"], loaded), "save has changed"
    save_file({"w": np.ascontiguousarray(array)}, "array.safetensors")
    np.save("array.npy", array)
    assert np.array_equal(load_file("array.safetensors")["w"], array), "arrays in C's order have changed"
    assert np.array_equal(np.load("array.npy"), array), "np.save has changed"
PY
venv/bin/python save.py
