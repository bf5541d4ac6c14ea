import json
from pathlib import Path

import onnxruntime
import pytest

import libradet
from libradet.errors import UserError
from libradet.export.metadata import build_metadata, decode_metadata, encode_metadata
from tests.helpers.exported_detectors import small_detector


def test_metadata_and_names_in_a_file(mask_rcnn_onnx):
    model = mask_rcnn_onnx.model
    session = onnxruntime.InferenceSession(mask_rcnn_onnx.exported, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["model"] == "libra_mask_rcnn"
    assert metadata["libradet_version"] == libradet.__version__
    expected = {"class_names": model.class_names, "category_ids": [7, 3, 5], "image_size": [96, 128]}
    assert {name: json.loads(metadata[name]) for name in expected} == expected
    assert json.loads(metadata["score_thresh"]) == model.config.detections.score_thresh
    assert [i.name for i in session.get_inputs()] == ["images"]
    assert [o.name for o in session.get_outputs()] == ["boxes", "scores", "labels", "valid", "masks"]
    assert str(Path.cwd()).encode() not in mask_rcnn_onnx.exported.read_bytes(), "no paths of this machine"


def test_metadata_round_trip():
    metadata = build_metadata(small_detector("mask_rcnn"), (64, 80))
    texts = encode_metadata(metadata)
    assert decode_metadata(texts, "x") == metadata
    for damage in ({"image_size": "[1,"}, {"format": "other"}):
        with pytest.raises(UserError, match="x: "):
            decode_metadata(texts | damage, "x")
    del texts["category_ids"]
    with pytest.raises(UserError, match="category_ids"):
        decode_metadata(texts, "x")


def test_files_of_another_version_are_refused_in_one_line():
    texts = encode_metadata(build_metadata(small_detector("rpn")))
    old = texts | {"format": "libradet exported detector, version 1"}
    with pytest.raises(UserError, match=r"x: written by another version of libradet export; export it again$"):
        decode_metadata(old, "x")
