"""Arguments of public functions that no type checker has seen: wrong ones are refused by name, numpy's are Python's."""

import inspect
import math
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision as sv
import torch

import libradet
from libradet.data.convert import convert
from libradet.data.read import check, read, splits
from libradet.data.records import Dataset
from libradet.data.synthesis.synthetic import synthesize
from libradet.errors import UserError
from libradet.evaluation.evaluate import evaluate as evaluate_dataset
from libradet.evaluation.metric import CocoMetric
from libradet.export.exported_model import ExportedModel
from libradet.export.exporter import export
from libradet.export.metadata import ExportMetadata
from libradet.inference.run_model import on_device
from libradet.inference.tta import TestTimeAugmentation
from libradet.interop.supervision import from_supervision, to_supervision, write_folder
from libradet.interop.torchvision import balance
from libradet.models.detector import Detector
from libradet.models.zoo import make_config
from libradet.training.config import TrainConfig
from libradet.training.datamodule import DetectorData
from libradet.utils.arguments import check_arguments
from libradet.utils.ranges import PositiveInt, UnitInterval
from tests.helpers.tiny_detectors import tiny_detector

FUNCTIONS = {
    **{name: getattr(libradet, name) for name in ("create_model", "load_model", "train", "evaluate", "export_model")},
    **{function.__qualname__: function for function in (Detector.predict, ExportedModel.predict, Detector.__init__)},
    **{function.__qualname__: function for function in (DetectorData.__init__, CocoMetric.__init__, make_config)},
    **{function.__qualname__: function for function in (read, check, splits, convert, synthesize, balance, export)},
    **{function.__qualname__: function for function in (from_supervision, to_supervision, write_folder)},
    "optimize": libradet.optimize,
    "evaluate_dataset": evaluate_dataset,
}
FREE = {"self", "images", "augmentations", "kwargs", "settings", "splits"}
"""Parameters of many kinds, whose errors say more than a type."""

FOREIGN = {("balance", "model"), ("Detector.predict", "proposals"), ("ExportedModel.predict", "proposals")}
"""Parameters that the function itself checks."""


@pytest.fixture(scope="module")
def valid():
    """Arguments that are there, by name: the function itself never runs."""
    detector = tiny_detector()
    images = {
        "self": detector,
        "model": detector,
        "config": detector.config,
        "name": "rpn",
        "images": "x.jpg",
        "to": "coco",
    }
    return {
        **images,
        "dataset": Dataset(Path("x"), "train", [], [], []),
        "of_supervision": sv.DetectionDataset([], [], {}),
    }


def refuse(function, valid, argument, value):
    """Call with a wrong argument, and return the message."""
    required = {
        name: valid.get("of_supervision" if (function, name) == (from_supervision, "dataset") else name, "x")
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    }
    with pytest.raises(UserError) as refused:
        function(**{**required, argument: value})
    return str(refused.value)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_argument_may_be_anything(name, valid, without_type_checks):
    for argument in inspect.signature(FUNCTIONS[name]).parameters:
        if argument not in FREE and (name, argument) not in FOREIGN:
            message = refuse(FUNCTIONS[name], valid, argument, object())
            assert message.startswith(f"{argument} is <object object at ")
            assert ": it must be " in message


@pytest.mark.parametrize("field", [field.name for field in fields(TrainConfig) if field.name not in FREE])
def test_no_setting_of_a_run_may_be_anything(field, without_type_checks):
    with pytest.raises(UserError, match=rf"^{field} is <object object at .*: it must be "):
        libradet.train(**{"data": "DIR", field: object()})


COUNTS = (0, -1, 2.5, "2", True, math.nan, [2])
SHARES = (-0.1, 1.5, math.nan, math.inf, "0.5", False, [0.5])
NOT_PATHS = (None, 3, b"x", ["x"])


@pytest.mark.parametrize(
    ("function", "argument", "values", "fix"),
    [
        ("create_model", "num_classes", (*COUNTS, None), ("at least 1", "a whole number", "a finite number")),
        ("create_model", "backbone", (18, ["resnet18"]), ("text or null",)),
        ("create_model", "config", ("libra_rpn", 3), ("a mapping of fields or null",)),
        ("create_model", "class_names", ("cat", {"cat"}, [1]), ("a list, each item text",)),
        ("create_model", "allow_partial", (1, "no", None), ("true or false",)),
        ("load_model", "path", NOT_PATHS, ("text or a path",)),
        ("load_model", "device", (2.5, None, ["cpu"]), ("text or a device",)),
        ("load_model", "runtime", ("tensorrt", True), ("one of onnxruntime, openvino or null",)),
        ("train", "data", NOT_PATHS, ("text or a path",)),
        ("train", "callbacks", (3, None, ["EarlyStopping"]), ("a list, each item a Callback",)),
        ("train", "logger", (3, [None]), ("a list, each item a Logger or text",)),
        ("train", "batch_size", (*COUNTS, None), ("at least 1", "a whole number", "a finite number")),
        ("train", "num_workers", (-1, 1.5, "2", True), ("at least 0", "a whole number")),
        ("train", "ema", (*SHARES, 1.0), ("at least 0 and below 1", "a number or null", "a finite number")),
        ("train", "lr", (0, -0.1, math.nan, "0.1"), ("above 0", "a number or null", "a finite number")),
        ("train", "tiles", (640, [640], [640, 1.5]), ("size in pixels and an overlap", "null or a list", "below 1")),
        ("train", "logger", ([3],), ("a list",)),
        ("train", "output_dir", (3, b"x", ["x"]), ("text or null",)),
        ("evaluate", "model", NOT_PATHS, ("text or a path or a Predictor",)),
        ("evaluate", "split", (None, 3), ("text",)),
        ("evaluate", "calibration_images", ("x.jpg", ["x.jpg"], np.zeros((2, 8, 8, 3), np.uint8)), ("RGB arrays",)),
        ("evaluate_dataset", "batch_size", COUNTS, ("at least 1", "a whole number", "a finite number")),
        ("evaluate_dataset", "num_workers", (-1, 1.5, "2", True), ("at least 0", "a whole number")),
        ("evaluate_dataset", "tta_scales", (64, "64", [0.5], [None], None), ("a list of shorter sides",)),
        ("evaluate_dataset", "size", (64, "64", [0.5, 1]), ("two whole numbers",)),
        ("evaluate_dataset", "precision", ("fp16", 16), ("one of auto, fp32, bf16",)),
        ("Detector.predict", "score_thresh", SHARES, ("between 0 and 1", "a number", "a finite number")),
        ("Detector.predict", "batch_size", COUNTS, ("at least 1", "a whole number", "a finite number")),
        ("Detector.predict", "tta_flip", (1, "yes", None), ("true or false",)),
        ("Detector.predict", "tiles", (640, "640", ["640", 0.2]), ("a size in pixels and an overlap",)),
        ("Detector.predict", "tile_merge", ("soft", None), ("one of nms, wbf",)),
        ("export_model", "static", (1, "1", [1.5, 8, 8]), ("the number of images, height and width",)),
        ("optimize", "precision", ("fp16", None), ("one of auto, fp32, bf16, int8",)),
        ("optimize", "image", (3, "x.jpg", np.zeros((8, 8, 3))), ("RGB array",)),
        ("convert", "to", ("cvat", "COCO", None), ("one of coco, yolo, voc",)),
        ("convert", "image_mode", ("move", None), ("one of copy, link",)),
        ("synthesize", "seed", (-1, 2**32, 0.5), ("between 0 and 4294967295", "a whole number")),
    ],
)
def test_wrong_values_are_refused_with_the_fix(function, argument, values, fix, valid, without_type_checks):
    for value in values:
        message = refuse(FUNCTIONS[function], valid, argument, value)
        assert message.startswith(f"{argument} ")
        assert any(words in message for words in fix), message
        assert "\n" not in message


def test_settings_that_there_are_not(valid):
    evaluate = partial(libradet.evaluate, valid["model"], "x")
    with pytest.raises(UserError, match="evaluate has no setting 'tta_scale'; did you mean 'tta_scales'"):
        evaluate(tta_scale=[64])
    with pytest.raises(UserError, match=r"evaluate has no setting 'foo'; it has size, batch_size, num_workers, "):
        evaluate(foo=3)
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'name'"):
        libradet.load_model("x", name="y")  # pyrefly: ignore


@check_arguments
def example(count: PositiveInt = 1, share: UnitInterval = 0.5, flag: bool = False, size: Any = None, *names: str):
    return count, share, flag, size, names


def test_numbers_of_numpy_arrive_as_pythons(without_type_checks):
    returned = example(np.int64(3), np.float32(0.25), np.True_, (np.int32(4), [np.float64(0.5)]), "a")
    assert returned == (3, 0.25, True, (4, [0.5]), ("a",))
    kinds = [type(value) for value in (*returned[:3], returned[3][0], returned[3][1][0])]
    assert kinds == [int, float, bool, int, float]
    model = libradet.create_model("faster_rcnn", np.int64(3), "test_resnet")
    assert type(model.config.num_classes) is int
    config = TrainConfig("DIR", batch_size=np.int64(2), tiles=(np.int64(640), np.float32(0.25)), output_dir=Path("x"))
    assert (type(config.batch_size), config.tiles, config.output_dir) == (int, [640.0, 0.25], "x")
    assert type(TrainConfig("DIR", lr=np.float32(0.25)).lr) is float
    with pytest.raises(UserError, match="batch_size is 0: it must be at least 1"):
        TrainConfig("DIR", batch_size=np.int64(0))


def test_devices():
    for device in ("cuda:99", torch.device("cuda", 99), "cpux"):
        with pytest.raises(UserError, match=rf"^device is {device}: it cannot be used here"):
            libradet.load_model("x.safetensors", device)


def test_exported_files_run_on_the_cpu_only():
    with pytest.raises(UserError, match=r"x\.onnx: an exported file runs on the CPU; leave out the device meta"):
        libradet.load_model("x.onnx", "meta")
    exported = ExportedModel(ExportMetadata("rpn", ("a",), (1,), "original", True, 0.05, False, True, 0, "0"), list)
    for model in (exported, TestTimeAugmentation(exported, tta_flip=True)):
        with pytest.raises(UserError, match="device is meta: this rpn runs on cpu only"), on_device(model, "meta"):
            pass
        with on_device(model, "cpu"):
            pass


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0: it must be at least 1"),
        ({"batch_size": 0, "engine": "packed"}, "batch_size is 0: it must be at least 1"),
        ({"num_workers": -1}, "num_workers is -1: it must be at least 0"),
        ({"size": (800, 100)}, "size is .*the shorter and the longer side"),
        ({"precision": "fp16"}, "precision is 'fp16': it must be one of auto, fp32, bf16$"),
        ({"precision": "fp16", "engine": "packed"}, "precision is 'fp16': it must be one of auto, fp32, bf16, int8"),
        ({"precision": "int8", "engine": "packed"}, "int8 needs calibration images"),
        ({"engine": "packed", "calibration_images": [np.zeros((8, 8, 3), np.uint8)]}, "for the precision int8, not"),
        ({"device": "cpux"}, "device is cpux: it cannot be used here"),
        ({"tta_scales": [0]}, "tta_scales has 0: use a shorter side"),
        ({"tta_scales": [64], "size": (64, 80)}, "size and tta_scales exclude each other"),
        ({"tiles": (640, 1.5)}, "tiles has the overlap 1.5"),
        ({"tile_merge": "wbf"}, "tile_merge is wbf, which needs tiles"),
        ({"coco_results": "."}, "is a folder; name a file"),
        ({}, "no_dataset: no such folder"),
    ],
)
def test_settings_of_an_evaluation_are_checked_before_model_and_data(settings, words, without_type_checks):
    with pytest.raises(UserError, match=words):
        libradet.evaluate("no_model.safetensors", "no_dataset", **settings)


@pytest.mark.parametrize(
    ("path", "settings", "words"),
    [
        ("model.pb", {}, "ends in .onnx"),
        ("model.onnx", {"size": (800, 100)}, "size is .*the shorter and the longer side"),
        ("model.onnx", {"static": (0, 64, 64)}, "static is 0 64 64: use the number of images, height and width"),
        ("model.onnx", {"static": (64, 64)}, "static is .*: it must be the number of images, height and width"),
        ("model.pt2", {"calibration_images": [np.zeros((8, 8, 3), np.uint8)]}, "INT8 quantization is for .onnx files"),
        ("x.py/model.onnx", {}, "the folder cannot be created"),
        ("new/model.onnx", {}, "no_model.safetensors"),
    ],
)
def test_settings_of_an_export_are_checked_before_the_model_is_loaded(
    path, settings, words, tmp_path, without_type_checks
):
    (tmp_path / "x.py").touch()
    with pytest.raises(UserError, match=words):
        libradet.export_model("no_model.safetensors", tmp_path / path, **settings)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.py"], "nothing is left behind"


def test_the_split_is_looked_up_before_the_model_is_loaded(tmp_path):
    synthesize(tmp_path, train=1, val=1, size=(72, 72))
    with pytest.raises(UserError, match="there is no split 'vall'; choose one of train, val"):
        libradet.evaluate("no_model.safetensors", tmp_path, "vall")
