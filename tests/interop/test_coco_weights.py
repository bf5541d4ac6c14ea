"""Published weights by name: what is written down about them, and their way from a server to a detector."""

import errno
import hashlib
import io
import multiprocessing
import os
import pickle
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
import torchvision

import libradet
from libradet.cli import main
from libradet.errors import UserError
from libradet.interop import coco_weights
from libradet.interop.coco_weights import (
    COCO_WEIGHTS,
    PublishedWeights,
    best_weights,
    by_name,
    with_torchvision_facts,
)
from libradet.interop.loading import load_checkpoint, load_checkpoint_any, read_config_any, resolve_init_weights
from libradet.interop.saving import save_checkpoint_as, to_foreign_state_dict
from libradet.interop.weights_cache import cache_path, local_weights
from libradet.models.detector import Detector
from libradet.models.serialization import read_config
from libradet.models.zoo import MODELS
from libradet.training.options import parse_train
from libradet.utils.atomic_io import atomic_write
from tests.helpers.file_server import file_server
from tests.helpers.tiny_detectors import tiny_config, tiny_detector

NAME, FILE = "faster_rcnn_r18_fpn_coco", "faster_rcnn_r18_fpn_1x_coco_20200130-{}.pth"
HOST = "https://weights.invalid/mmdetection/v2.0/"


def test_the_table_is_consistent():
    names = [weights.name for weights in COCO_WEIGHTS]
    assert len({name.casefold() for name in names}) == len(names) == 27
    assert all(name.endswith("_coco") for name in names)
    assert {weights.model for weights in COCO_WEIGHTS} <= set(MODELS)
    files = [weights.file_name for weights in map(with_torchvision_facts, COCO_WEIGHTS)]
    assert len(set(files)) == len(files)


@pytest.mark.parametrize("weights", COCO_WEIGHTS, ids=lambda weights: weights.name)
def test_hashes_and_addresses(weights):
    weights = with_torchvision_facts(weights)
    assert weights.url.startswith("https://")
    assert len(weights.sha256) in ((0, 64) if weights.origin == "detectron2" else (8,))
    assert set(weights.sha256) <= set("0123456789abcdef")
    assert weights.origin == "detectron2" or f"-{weights.sha256}.pth" in weights.url
    assert (weights.box_ap is None) == (weights.model == "rpn")
    assert (weights.mask_ap is not None) == (weights.model == "mask_rcnn")


def test_documentation_lists_all_with_their_ap():
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    for weights in map(with_torchvision_facts, COCO_WEIGHTS):
        ap = "" if weights.box_ap is None else f"{weights.box_ap} "
        ap += "" if weights.mask_ap is None else f"({weights.mask_ap}) "
        start = f"| `{weights.name}` | {weights.backbone} | {ap}| {weights.epochs or ''}".rstrip()
        [row] = [line for line in page.splitlines() if line.startswith(f"{start} |")]
        assert row.endswith(f" | {weights.origin} |")


def test_facts_of_torchvision_are_its_own():
    weights = with_torchvision_facts(next(w for w in COCO_WEIGHTS if w.name == "maskrcnn_resnet50_fpn_v2_coco"))
    entry = torchvision.models.detection.MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1
    assert (weights.url, weights.box_ap, weights.mask_ap) == (entry.url, 47.4, 41.8)


@pytest.mark.parametrize(
    ("model", "backbone", "name"),
    [
        ("libra_faster_rcnn", "resnet50", "libra_faster_rcnn_r50_fpn_coco"),
        ("faster_rcnn", "resnet50", "fasterrcnn_resnet50_fpn_v2_coco"),
        ("faster_rcnn", "resnet101", "faster_rcnn_R_101_FPN_3x_coco"),
        ("balanced_faster_rcnn", "resnext101_64x4d", "faster_rcnn_x101_64x4d_fpn_3x_coco"),
        ("libra_cascade_rcnn", "resnet50", "cascade_rcnn_r50_fpn_coco"),
        ("libra_mask_rcnn", "resnet50", "maskrcnn_resnet50_fpn_v2_coco"),
        ("libra_rpn", "resnet50", "rpn_R_50_FPN_1x_coco"),
    ],
)
def test_coco_means_the_best_of_the_same_model_or_its_plain_one(model, backbone, name):
    assert best_weights(model, backbone).name == name


def test_models_without_published_weights():
    with pytest.raises(UserError, match="cascade_rcnn on resnet18: with --backbone resnet101, resnet50 there are, or"):
        best_weights("cascade_rcnn", "resnet18")
    with pytest.raises(UserError, match="fast_rcnn on resnet50: choose another model"):
        best_weights("libra_fast_rcnn", "resnet50")


@pytest.fixture(scope="module")
def detector():
    config = tiny_config("faster_rcnn", 80, "resnet18")
    config.class_names, config.category_ids = (), ()
    return tiny_detector(config).eval()


@pytest.fixture(scope="module")
def checkpoint(detector):
    """The detector as mmdetection wrote it before version 2.0 was released: settings of 1.x, other anchors."""
    state = to_foreign_state_dict(detector, "mmdet")
    file = io.BytesIO()
    settings = "model = dict(rpn_head=dict(anchor_scales=[4]))"
    torch.save({"meta": {"mmdet_version": "1.0rc1+5f9f470", "config": settings}, "state_dict": state}, file)
    return file.getvalue()


@pytest.fixture
def publish(monkeypatch, tmp_path):
    """Return a function that publishes a file under a name, and the server that has it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    with file_server() as server:
        monkeypatch.setenv("LIBRADET_WEIGHTS_URL", f"{server.url}/mirror/")

        def publish(content: bytes, **facts) -> PublishedWeights:
            digits = hashlib.sha256(content).hexdigest()[:8]
            url = HOST + FILE.format(digits)
            weights = PublishedWeights(NAME, "faster_rcnn", "resnet18", "mmdetection", "Apache-2.0", url, digits, 30.0)
            weights = replace(weights, **facts)
            server.files[f"/mirror{urlsplit(weights.url).path}"] = content
            monkeypatch.setattr(coco_weights, "COCO_WEIGHTS", (weights,))
            return weights

        publish.server = server
        yield publish


def test_from_server_to_detector(publish, checkpoint, detector, tmp_path, capsys, monkeypatch):
    weights = publish(checkpoint)
    model = libradet.load_model(NAME)
    assert len(publish.server.requests) == 1
    assert all(torch.equal(t, detector.state_dict()[name]) for name, t in model.state_dict().items())
    # The settings are version 2's whatever the file says, as for a file of that version without settings.
    save_checkpoint_as(detector, "mmdet", tmp_path / "newer.pth")
    assert model.config == load_checkpoint(tmp_path / "newer.pth").model.config
    assert model.class_names[:2] == ["person", "bicycle"]
    original = cache_path(weights)
    assert original == tmp_path / "home" / "hub" / "checkpoints" / weights.file_name
    # Later loads need neither network nor the original.
    original.unlink()
    monkeypatch.setenv("LIBRADET_WEIGHTS_URL", "http://127.0.0.1:9")
    assert read_config(local_weights(NAME).path) == model.config
    start = parse_train(["--data", "x", "--model", "libra_faster_rcnn", "--backbone", "resnet18", "--weights", "coco"])
    assert (start.config.weights, start.detector.pyramid.channels) == (NAME, 16)
    option = "--detector.backbone.name=resnet18"
    for name in (option, option.replace("=", " ")):
        start = parse_train(["--data", "x", "--weights", "coco", "--model", "libra_faster_rcnn", *name.split()])
        assert (start.config.weights, start.detector.backbone.name) == (NAME, "resnet18")
    with pytest.raises(UserError, match="for libra_faster_rcnn on swin_base: with --backbone resnet18 there are"):
        parse_train(["--data", "x", "--weights", "coco", "--detector.backbone.name", "swin_base"])
    libra = libradet.create_model("libra_faster_rcnn", 3, "resnet18", weights="coco")
    assert {layer.partition(".")[0] for layer in libra.reinitialized_layers} == {"balance", "roi"}
    assert torch.equal(libra.rpn.logits.weight, detector.rpn.logits.weight)
    monkeypatch.setattr("libradet.interop.weights_cache.COCO_WEIGHTS", (weights,))
    monkeypatch.delenv("COLUMNS", raising=False)
    capsys.readouterr()
    assert main(["models", "--weights"]) == 0
    assert "yes" in next(line for line in capsys.readouterr().out.splitlines() if NAME in line).split()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["libra_faster_rcnn", "balanced_faster_rcnn"])
def test_training_starts_from_the_weights_of_the_plain_detector(publish, checkpoint, model, tmp_path, monkeypatch):
    publish(checkpoint)
    monkeypatch.chdir(tmp_path)
    assert main(["data", "synthesize", "data", "--size", "144", "96", "--train", "4", "--val", "2"]) == 0
    start_from = ["--model", model, "--backbone", "resnet18", "--weights", "coco", "--lr", "1e-6"]
    size = ["--max_steps", "2", "--batch_size", "2", "--detector.image.size", "96", "144"]
    assert main(["train", "--data", "data", "--output_dir", "run", *start_from, *size]) == 0
    trained = libradet.load_model(tmp_path / "run" / "best.safetensors")
    start, end = libradet.load_model(NAME).rpn.logits.weight, trained.rpn.logits.weight
    assert trained.config.model == model
    assert not torch.equal(end, start)
    torch.testing.assert_close(end, start, rtol=0, atol=1e-3)


def test_a_file_put_there_by_hand(publish, checkpoint, monkeypatch):
    weights = publish(checkpoint)
    publish.server.files.clear()
    cache_path(weights).parent.mkdir(parents=True)
    cache_path(weights).write_bytes(checkpoint[:-1])
    with pytest.raises(UserError, match=rf"{weights.file_name}: not the published file.*{weights.sha256}; delete it"):
        local_weights(NAME)
    cache_path(weights).write_bytes(checkpoint)
    outdated = cache_path(weights).with_name(f"{cache_path(weights).stem}.libradet-0.0.1.safetensors")
    outdated.write_bytes(b"")
    assert read_config(local_weights(NAME).path).rpn.anchors.scales == (8.0,)
    assert not outdated.exists(), "the conversion of another version is replaced"
    assert publish.server.requests == []


def test_two_processes_download_once(publish, checkpoint):
    publish(checkpoint)
    publish.server.pause = 0.05
    processes = [multiprocessing.get_context("fork").Process(target=local_weights, args=(NAME,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(publish.server.requests) == 1
    assert read_config(local_weights(NAME).path).backbone.name == "resnet18"


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_in_a_hostile_file_is_executed(publish, tmp_path):
    weights = publish(pickle.dumps({"state_dict": Payload(str(tmp_path / "mark"))}))
    with pytest.raises(UserError, match=rf"{weights.file_name}: the file refers to posix\.mkdir.*not loaded"):
        libradet.load_model(NAME)
    assert not (tmp_path / "mark").exists()
    assert not list(cache_path(weights).parent.glob("*.safetensors"))


def test_a_download_without_known_hash_that_is_no_detector_is_not_kept(publish, checkpoint, detector):
    """Such as the page of a proxy; a file that was put there by hand is left alone."""
    weights = publish(b"<html>Sign in</html>", sha256="")
    for requests in (1, 2):
        with pytest.raises(UserError, match=r"not a readable checkpoint.*; it was not kept, and the next attempt") as e:
            local_weights(NAME)
        assert "\n" not in str(e.value)
        assert not cache_path(weights).exists()
        assert len(publish.server.requests) == requests
    cache_path(weights).write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"not a readable checkpoint"):
        local_weights(NAME)
    assert cache_path(weights).exists()
    cache_path(weights).write_bytes(checkpoint)
    assert read_config(local_weights(NAME).path).backbone.name == "resnet18"


def test_another_detector_under_the_name(publish, checkpoint):
    weights = publish(checkpoint, model="libra_faster_rcnn")
    with pytest.raises(UserError, match=r"contains faster_rcnn on resnet18, not libra_faster_rcnn on resnet18"):
        local_weights(NAME)
    assert not list(cache_path(weights).parent.glob("*.safetensors"))


def test_without_network_one_line_says_where_the_file_belongs(publish, monkeypatch, capsys, tmp_path):
    weights, street = publish(b""), tmp_path / "street.jpg"
    street.touch()
    monkeypatch.setenv("LIBRADET_WEIGHTS_URL", "http://127.0.0.1:9")
    assert main(["predict", NAME, str(street)]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("libradet: error: http://127.0.0.1:9/mmdetection/v2.0/")
    assert f"put the file at {cache_path(weights)} by hand" in line
    monkeypatch.setenv("LIBRADET_WEIGHTS_URL", "mirror")
    with pytest.raises(UserError, match="LIBRADET_WEIGHTS_URL is mirror: it must be an address"):
        local_weights(NAME)


def refuse_to_lock(*args, **kwargs):
    raise OSError(errno.EROFS, "Read-only file system")


def refuse_to_save(model, path):
    with atomic_write(path):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("function", "refuse"),
    [("filelock.BaseFileLock.acquire", refuse_to_lock), ("libradet.models.serialization.save_model", refuse_to_save)],
)
def test_a_cache_that_cannot_be_written(publish, checkpoint, detector, monkeypatch, function, refuse):
    """The file that is there is loaded as if it had been converted; one that is not there is refused in one line."""
    weights = publish(checkpoint)
    folder = cache_path(weights).parent
    config = read_config(local_weights(NAME).path)
    for converted in folder.glob("*.safetensors"):
        converted.unlink()
    monkeypatch.setattr(function, refuse)
    model = libradet.load_model(NAME)
    assert all(torch.equal(t, detector.state_dict()[name]) for name, t in model.state_dict().items())
    initialized, _ = resolve_init_weights(NAME)
    assert isinstance(initialized, Detector)
    assert model.config == read_config_any(NAME) == initialized.config == config
    assert not list(folder.glob("*.safetensors"))
    cache_path(weights).write_bytes(checkpoint[:-1])
    with pytest.raises(UserError, match=f"{weights.file_name}: not the published file"):
        libradet.load_model(NAME)


def test_no_file_in_a_cache_that_cannot_be_written(publish, checkpoint, tmp_path, monkeypatch):
    weights = publish(checkpoint)
    message = rf"{weights.file_name} is not in {{}}, which cannot be written \({{}}\); set TORCH_HOME to another folder"
    monkeypatch.setattr("filelock.BaseFileLock.acquire", refuse_to_lock)
    with pytest.raises(UserError, match=message.format(cache_path(weights).parent, "Read-only file system")):
        local_weights(NAME)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=message.format(cache_path(weights).parent, "Not a directory")):
        local_weights(NAME)


def test_files_precede_names(publish, checkpoint, tmp_path, monkeypatch):
    publish(checkpoint)
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir()
    assert by_name(NAME) is not None, "a folder is no model"
    (tmp_path / NAME).rmdir()
    (tmp_path / NAME).write_bytes(b"nothing")
    assert local_weights(NAME).path == NAME
    with pytest.raises(UserError, match=f"{NAME}: not a readable checkpoint"):
        load_checkpoint_any(NAME)


@pytest.mark.parametrize("command", ["predict {} x.jpg", "evaluate {} --data d", "train --data d --weights {}"])
def test_unknown_names_have_a_suggestion(command, capsys):
    assert main(command.format("libra_faster_rcnn_r50_coco").split()) == 2
    line = capsys.readouterr().err
    assert "libra_faster_rcnn_r50_coco: no such file; did you mean the published weights libra_faster_rcnn_r" in line
    assert line.count("\n") == 1
    with pytest.raises(UserError, match=r"folder/libra_faster_rcnn_r50_coco: no such file$"):
        libradet.load_model("folder/libra_faster_rcnn_r50_coco")
