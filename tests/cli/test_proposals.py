"""The paper's ablations from the command line: one model proposes, others train, measure and look on its proposals."""

import json

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file, save_file

import libradet
from libradet.cli import main
from libradet.data.formats.coco import to_coco
from libradet.data.image_io import read_image
from libradet.data.read import read
from libradet.data.synthesis.synthetic import synthesize
from libradet.evaluation.coco import coco_metrics
from libradet.models.build import create_model
from libradet.models.serialization import load_model, save_model
from libradet.models.zoo import make_config

SMALL = ["--detector.image.size", "[64, 96]", "--detector.pyramid.channels", "16", "--detector.roi.fc_dim", "32"]
FAST = ["train", "--backbone", "test_resnet", "--num_workers", "0", "--batch_size", "2", "--precision", "fp32", *SMALL]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A dataset, an rpn that nobody trained, and its proposals for both splits."""
    root = tmp_path_factory.mktemp("place")
    synthesize(root / "data", train=4, val=3, size=(144, 96), classes=2)
    torch.manual_seed(0)
    config = make_config("rpn", backbone="test_resnet")
    config.image.size, config.pyramid.channels = (64, 96), 16
    config.rpn.test_proposals.post_nms_top_n = config.detections.detections_per_img = 150
    model = create_model(config=config, class_names=("ball", "crate"))
    torch.nn.init.normal_(model.rpn.logits.weight, std=0.3)
    save_model(model, root / "rpn.safetensors")
    options = ["--data", str(root / "data"), "--output_dir", str(root / "props")]
    assert main(["predict", str(root / "rpn.safetensors"), *options]) == 0
    return root


@pytest.fixture(scope="module")
def run(place):
    """A Libra Fast R-CNN that was trained for one epoch, and then for another one."""
    where = ["--data", str(place / "data"), "--output_dir", str(place / "run"), "--proposals", str(place / "props")]
    assert main([*FAST, "--model", "libra_fast_rcnn", *where, "--max_epochs", "1", "--num_val_images_logged", "1"]) == 0
    assert main(["train", "--resume", str(place / "run"), "--max_epochs", "2"]) == 0
    return place / "run"


def test_recall_of_the_file_is_that_of_the_model(place, tmp_path):
    """The file, read by other means, against what evaluation says of the model."""
    out = tmp_path / "rpn.json"
    assert main(["evaluate", str(place / "rpn.safetensors"), "--data", str(place / "data"), "--json", str(out)]) == 0
    measured = json.loads(out.read_text())
    dataset, _ = read(place / "data", "val")
    file = load_file(place / "props" / "val.safetensors")
    assert file["ids"].tolist() == [p.id for p in dataset.images]
    ids = np.repeat(file["ids"], np.diff(file["offsets"]))
    boxes = file["boxes"].astype(float)
    boxes[:, 2:] -= boxes[:, :2]
    rows = np.concatenate([ids[:, None], boxes, file["scores"][:, None], np.full((len(ids), 1), 1.0)], 1)
    recall = coco_metrics(to_coco(dataset), rows, max_detections=150, class_agnostic=True)
    assert measured["detections"] == len(rows) > 300
    assert measured["AR300"] > 0.05
    for name in ("AR1", "AR10", "AR100", "AR300", "ARs", "AP"):
        assert recall[name] == pytest.approx(measured[name], abs=1e-9), name


def test_a_run_keeps_its_proposals(place, run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["proposals"] == str(place / "props")
    assert config["max_epochs"] == 2
    measured = json.loads((run / "metrics.json").read_text())
    assert measured["detections"] > 0
    assert (run / "val_predictions.png").exists()


def test_measuring_a_run_again_gives_its_numbers(place, run, tmp_path):
    argv = ["evaluate", str(run / "best.safetensors"), "--data", str(place / "data"), "--batch_size", "2"]
    assert main([*argv, "--proposals", str(place / "props" / "val.safetensors"), "--json", str(tmp_path / "x")]) == 0
    again, measured = json.loads((tmp_path / "x").read_text()), json.loads((run / "metrics.json").read_text())
    for name in ("AP", "AP50", "AR100", "detections"):
        assert again[name] == pytest.approx(measured[name], abs=1e-6)


def test_looking_at_images(place, run, tmp_path):
    """Proposals of image files, and those of the dataset that they are from, lead to the same detections."""
    images, found = str(place / "data" / "images" / "val_*.jpg"), {}
    assert main(["predict", str(place / "rpn.safetensors"), images, "--output_dir", str(tmp_path / "props")]) == 0
    assert len(list((tmp_path / "props").glob("val_*.jpg"))) == 3
    for name, file in (("own", tmp_path / "props" / "proposals.safetensors"), ("set", place / "props/val.safetensors")):
        argv = ["predict", str(run / "best.safetensors"), images, "--score_thresh", "0.05", "--proposals", str(file)]
        assert main([*argv, "--output_dir", str(tmp_path / name)]) == 0
        found[name] = json.loads((tmp_path / name / "predictions.json").read_text())
    assert len(found["own"]) == len(found["set"]) > 0
    for a, b in zip(found["own"], found["set"], strict=True):
        np.testing.assert_allclose(a["bbox"], b["bbox"], atol=0.05)


def test_from_python(place, run):
    model, path = load_model(run / "best.safetensors"), place / "data" / "images" / "val_00000.jpg"
    height, width = read_image(path).shape[1:]
    boxes = np.array([[10, 10, 60, 50], [0, 0, width, height]])
    found = model.predict(path, score_thresh=0.0, proposals=boxes)
    assert len(found) > 0
    with pytest.raises(libradet.errors.UserError, match="libradet predict"):
        model.predict(path)
    with pytest.raises(libradet.errors.UserError, match=r"\[P, 4\]"):
        model.predict(path, proposals=boxes[0])
    with pytest.raises(libradet.errors.UserError, match="proposals has 1 entry for 2 images"):
        model.predict([path, path], proposals=[boxes])
    with pytest.raises(libradet.errors.UserError, match="rpn uses no precomputed proposals"):
        load_model(place / "rpn.safetensors").predict(path, proposals=boxes)


@pytest.fixture
def half(place, tmp_path):
    """Proposals of one validation image alone."""
    file = load_file(place / "props" / "val.safetensors")
    end = int(file["offsets"][1])
    file["names"] = np.frombuffer(json.dumps(json.loads(file["names"].tobytes())[:1]).encode(), np.uint8)
    cut = {"ids": file["ids"][:1], "sizes": file["sizes"][:1], "offsets": file["offsets"][:2], "names": file["names"]}
    cut |= {"boxes": file["boxes"][:end], "scores": file["scores"][:end]}
    save_file(cut, tmp_path / "half.safetensors", {"format": "libradet-proposals-1"})
    return tmp_path / "half.safetensors"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("train --model fast_rcnn --data DATA", "name their file with --proposals"),
        ("train --model fast_rcnn --data DATA --proposals absent.pkl", "absent.pkl: no such proposal file"),
        ("train --model faster_rcnn --data DATA --proposals PROPS", "faster_rcnn uses no precomputed proposals"),
        (
            "train --model faster_rcnn --data DATA --val_proposals PROPS",
            "faster_rcnn uses no precomputed proposals: leave out /",
        ),
        ("train --model fast_rcnn --data DATA --proposals PROPS/val.safetensors", "another dataset or split"),
        ("train --model fast_rcnn --data DATA --proposals PROPS --val_proposals HALF", "2 of 3 images"),
        ("evaluate RUN --data DATA", "name their file with --proposals"),
        ("evaluate RUN --data DATA --proposals HALF", "2 of 3 images"),
        ("evaluate RUN --data DATA --proposals RPN", "is not a proposal file"),
        ("evaluate RPN --data DATA --proposals PROPS", "rpn uses no precomputed proposals"),
        ("predict RUN DATA/images --output_dir new", "name their file with --proposals"),
        ("predict RUN DATA/images --output_dir new --proposals HALF", "6 of 7 input images"),
        ("predict RUN DATA/images --output_dir new --proposals PROPS", "is a folder"),
        ("predict RUN --data DATA --output_dir new", "is not a proposal model"),
        ("predict RPN DATA/images --score_thresh 2 --output_dir new", "score_thresh is 2"),
        ("predict RPN --data DATA --score_thresh 0.5 --output_dir new", "proposals of all scores are written; leave"),
        ("predict RPN --output_dir new", "either images or a dataset"),
        ("predict RPN DATA/images --data DATA --output_dir new", "either images or a dataset"),
        ("predict RPN DATA/images --split val --output_dir new", "--split"),
        ("predict RPN --data DATA --split val --output_dir HALF", "the folder cannot be created"),
        ("predict RPN --data DATA --split val --proposals PROPS --output_dir new", "rpn uses no precomputed proposals"),
    ],
)
def test_mistakes_end_in_one_line_before_anything_is_written(
    place, run, half, tmp_path, monkeypatch, capfd, argv, said
):
    names = {"RUN": run / "best.safetensors", "RPN": place / "rpn.safetensors", "DATA": place / "data"}
    for name, path in {**names, "PROPS": place / "props", "HALF": half}.items():
        argv = argv.replace(name, str(path))
    monkeypatch.chdir(tmp_path)
    more = ["--backbone", "test_resnet"] if argv.startswith("train") else []
    assert main([*argv.split(), *more]) == 2
    error = capfd.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == [half]
