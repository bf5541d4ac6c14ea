"""Parsing of polygons and RLE, against pycocotools."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools import mask as reference

from libradet.data.read import read
from libradet.data.segmentations import decode_rle_counts, enclosing_box, parse_segmentation
from tests.helpers.data_building import damaged


def test_compressed_and_uncompressed_rle():
    drawn = np.zeros((48, 64), np.uint8, order="F")
    drawn[5:20, 10:30] = 1
    packed = reference.encode(drawn)
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[2], drawn.ravel("F"), [2]]).astype(int))))
    plain = {"size": [48, 64], "counts": runs.tolist()}
    text = packed | {"counts": packed["counts"].decode()}
    for found in (plain, packed, text):
        unfit: list[str] = []
        kept = parse_segmentation(
            {"segmentation": json.loads(json.dumps(found, default=bytes.decode))}, 64, 48, False, unfit
        )
        assert unfit == []
        counts = kept["counts"] if isinstance(kept["counts"], bytes) else kept["counts"].encode()
        np.testing.assert_array_equal(reference.decode(kept | {"counts": counts}), drawn)
        assert enclosing_box(found) == [10, 5, 20, 15]


@pytest.mark.parametrize(
    "found",
    [
        [[]],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [["a"] * 6],
        [[float("nan")] * 6],
        [1, 2, 3, 4, 5, 6],
        "polygon",
        {"size": [48, 64]},
        {"size": [48, 64], "counts": [1, "x"]},
        {"size": [48, 64], "counts": [-5, 48 * 64 + 5]},
        {"size": [64, 48], "counts": [64 * 48]},
    ],
)
def test_invalid_segmentations_are_reported(found):
    unfit: list[str] = []
    assert parse_segmentation({"id": 3, "segmentation": found}, 64, 48, False, unfit) is None
    assert unfit == ["annotation 3"]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_decode_rle_counts_of_coco(height, width, seed):
    drawn = np.random.default_rng(seed).random((height, width)) < 0.5
    encoded = coco_mask.encode(np.asfortranarray(drawn.astype(np.uint8)))
    runs = decode_rle_counts(encoded["counts"])
    values = np.arange(len(runs)) % 2 == 1
    np.testing.assert_array_equal(np.repeat(values, runs).reshape(width, height).T, drawn)


@given(st.binary(max_size=30))
def test_rle_of_random_bytes_is_valid_or_refused(counts):
    unfit: list[str] = []
    kept = parse_segmentation({"segmentation": {"size": [5, 7], "counts": counts}}, 7, 5, False, unfit)
    if kept is None:
        assert unfit or not counts
    else:
        assert 0 < decode_rle_counts(counts).sum() <= 35
        assert coco_mask.decode({"size": [5, 7], "counts": counts}).shape == (5, 7)


@pytest.mark.parametrize(
    "segmentation",
    [
        *[
            [[0, 0, 1e9, 0, 0, 1e9]],
            [[0, 0, 10**400, 0, 0, 1]],
            {"size": 5, "counts": []},
            {"size": ["a", "b"]},
            "x",
            5,
        ],
        *[
            {"size": [48, 64], "counts": "~~~"},
            {"size": [48, 64], "counts": [10**30]},
            {"size": [48, 64], "counts": "o" * 99},
        ],
    ],
)
@pytest.mark.parametrize("boxed", [True, False])
def test_hostile_segmentations_are_dropped(tmp_path, segmentation, boxed):
    def put(content):
        content["annotations"][0]["segmentation"] = segmentation
        if not boxed:
            del content["annotations"][0]["bbox"]

    dataset, report = read(damaged(tmp_path, put))
    assert report.boxes == 3 + boxed
    assert all(s is None for p in dataset.images for s in p.segmentations)
