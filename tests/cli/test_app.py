"""A saved model is used from anywhere with nothing but its file; mistakes end in one line and exit code 2."""

import json

import pytest

from libradet.cli import main
from libradet.data.synthesis.synthetic import synthesize
from libradet.models.build import create_model
from libradet.models.serialization import save_model
from libradet.models.zoo import make_config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    synthesize(folder, train=1, val=3, size=(96, 80), classes=2)
    return folder


@pytest.fixture
def weights(tmp_path):
    """A model that nobody trained, alone in a folder."""
    config = make_config("libra_faster_rcnn", backbone="test_resnet")
    config.image.size = (80, 96)
    config.pyramid.channels, config.roi.fc_dim = 16, 32
    config.rpn.test_proposals.pre_nms_top_n = config.rpn.test_proposals.post_nms_top_n = 40
    config.category_ids = (7, 3)
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "model.safetensors"
    save_model(create_model(config=config, class_names=("ball", "star")), path)
    return path


@pytest.mark.parametrize(
    "argv",
    [
        ["evaluate", "--data", "DATA", "--json", "o/m.json", "--coco_results", "o/r.json"],
        ["predict", "DATA/images", "--output_dir", "o/p"],
        ["predict", "--data", "DATA", "--output_dir", "o/p"],
        ["analyze", "--data", "DATA", "--output_dir", "o/p"],
        ["export", "--output", "o/m.onnx"],
        ["convert", "o/m.safetensors"],
    ],
)
def test_a_damaged_model_leaves_nothing_behind(argv, data, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "damaged.safetensors"
    model.write_bytes(b"no model")
    command, *options = [word.replace("DATA", str(data)) for word in argv]
    assert main([command, str(model), *options]) == 2
    assert str(model) in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [model.name], "nothing is left behind"


def test_evaluate_needs_only_the_file(weights, data, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    names = [c["name"] for c in json.loads((data / "val.json").read_text())["categories"]]
    assert set(names) & {"ball", "star"}, "classes are matched by name"
    out = tmp_path / "numbers.json"
    assert main(["evaluate", str(weights), "--data", str(data), "--json", str(out), "--device", "cpu"]) == 0
    numbers = json.loads(out.read_text())
    assert numbers["images"] == 3
    assert 0 <= numbers["AP"] <= 1
    assert "AP50" in capfd.readouterr().out


def test_predict_needs_only_the_file(weights, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = str(data / "images" / "val_*.jpg")
    options = ["--output_dir", "found", "--score_thresh", "0", "--device", "cpu"]
    assert main(["predict", str(weights), images, *options]) == 0
    results = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert results
    assert {r["category_id"] for r in results} <= {7, 3}
    assert len(list((tmp_path / "found").glob("*.jpg"))) == 3


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["evaluate", "absent.safetensors", "--data", "."], "absent.safetensors"),
        (["predict", "absent.safetensors", "x.jpg", "--output_dir", "o"], "absent.safetensors"),
        (["export", "absent.safetensors", "--output", "o/model.onnx"], "absent.safetensors: no such file"),
        (["evaluate", "absent.safetensors", "--data", ".", "--json", "o/m.json"], "absent.safetensors"),
        (["analyze", "absent.safetensors", "--data", ".", "--output_dir", "o/p"], "absent.safetensors"),
        (["convert", "absent.pth", "o/model.safetensors"], "absent.pth"),
        (["data", "convert", "absent", "o/p", "--to", "coco"], "absent: no such folder"),
        (["data", "synthesize", "o/p", "--classes", "9"], "classes is 9"),
        (["reproduce", "libra", "--data", "absent", "--output_dir", "o/p"], "absent: no such folder"),
        (["train", "--data", ""], "data is missing"),
        (["train", "--data", "absent", "--output_dir", "o/p"], "absent: no such folder"),
        (["data", "check", "nowhere"], "nowhere"),
        (["train", "--data", "nowhere", "--backbone", "test_resnet"], "nowhere"),
        (["train", "--model", "libra_faster_rcn", "--data", "."], "libra_faster_rcnn"),
        (["train", "--data", ".", "--lrr", "1"], "--lr"),
        (["train", "--data", ".", "--detector.roi.sampling.num_bin", "1"], "--detector.roi.sampling.num_bins"),
        (["models", "--model", "rpn"], "--stats"),
        (["models", "--memory", "24G"], "--memory is an option of the statistics: add --stats"),
        (["models", "--weights", "--size", "480", "640"], "--size is an option of the statistics"),
        (["models", "--weights", "--stats"], "--stats: not allowed with argument --weights"),
        (["unknown_command"], "unknown_command"),
        (["evalute", "x"], "did you mean evaluate?"),
        (["data", "chekc", "x"], "did you mean check?"),
        (["predict", "m", "x", "--out", "y"], "did you mean --output_dir?"),
        (["predict", "m", "x", "--threshold", "0.1"], "did you mean --score_thresh?"),
        (["evaluate", "m", "--dat", "x"], "did you mean --data?"),
        (["predict", "m", "x", "--output_dir", "y", "--batch_size", "q"], "must be a whole number"),
        (["reproduce", "table9", "--data", "."], "choose from"),
        (["reproduce", "table4", "--data", ".", "--set", "learning_rate=1"], "did you mean lr?"),
        (["train", "--resume", "nodir"], "no such folder"),
    ],
)
def test_mistakes_end_in_one_line(argv, named, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    said = capfd.readouterr()
    assert named in said.out + said.err
    assert len(said.err.strip().splitlines()) <= 2
    assert "Traceback" not in said.err
    assert not list(tmp_path.iterdir()), "nothing is left behind"


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (
            ["evaluate", "--data", "DATA", "--json", "o/m.json", "--split", "vall"],
            "there is no split 'vall'; choose one of train, val",
        ),
        (["analyze", "--data", "DATA", "--split", "vall", "--output_dir", "o"], "there is no split 'vall'"),
        (["predict", "--data", "DATA", "--split", "vall"], "there is no split 'vall'"),
        (["evaluate", "--data", "DATA", "--json", "o/m.json", "--batch_size", "0"], "batch_size is 0"),
        (["evaluate", "--data", "DATA", "--size", "800", "100"], "size is [800, 100]"),
        (["evaluate", "--data", "DATA", "--tile_merge", "wbf"], "needs tiles"),
        (["evaluate", "--data", "DATA", "--coco_results", "."], "is a folder"),
        (["predict", "absent.jpg", "--output_dir", "o/p"], "absent.jpg: no such file"),
        (["predict", "DATA/images", "--score_thresh", "2"], "score_thresh is 2"),
        (["predict", "DATA/images", "--tiles", "64", "1"], "tiles has the overlap 1"),
        (["predict", "DATA/images", "--tta_scales", "0"], "tta_scales has 0"),
        (["analyze", "--data", "DATA", "--output_dir", "o", "--seed", "-1"], "seed is -1"),
        (["export", "--output", "m.onnx", "--size", "800", "100"], "size is [800, 100]"),
        (["export", "--output", "o/m.onnx", "--static", "0", "64", "64"], "static is 0 64 64"),
        (["export", "--output", "o/m.onnx", "--verify_images", "absent.jpg"], "absent.jpg: no such file"),
        (["export", "--output", "m.pt2", "--int8", "--calibration_images", "DATA/images"], "for .onnx files"),
    ],
)
def test_settings_are_checked_before_the_model_is_loaded(argv, named, data, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "damaged.safetensors"
    model.write_bytes(b"no model")
    command, *options = [word.replace("DATA", str(data)) for word in argv]
    assert main([command, str(model), *options]) == 2
    error = capfd.readouterr().err
    assert named in error
    assert "damaged" not in error
    assert [path.name for path in tmp_path.iterdir()] == [model.name], "nothing is left behind"
