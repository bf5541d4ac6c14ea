"""Several processes are one with the joint batch."""

import json
import signal

import pytest
import torch
from test_resume import rows, wait_for

from libradet.api import evaluate
from libradet.cli import main
from libradet.data.coco import read
from libradet.data.loader import make_loader
from libradet.training.checkpoint import read_checkpoint

# Samplers that take every candidate leave nothing to chance.
EVERYTHING = (
    *("--detector.rpn.sampling.size", "4000", "--detector.rpn.sampling.positive_fraction", "0.5"),
    *("--detector.roi.sampling.size", "400", "--detector.roi.sampling.positive_fraction", "0.5"),
    *("--model", "faster_rcnn", "--lr", "0.01", "--clip", "1", "--train_split", "train", "--ema", "0.5"),
)


@pytest.fixture(scope="module")
def sparse_data(tiny_data, tmp_path_factory):
    """Most pictures to train on hold no object, so that some processes get batches without any."""
    folder = tmp_path_factory.mktemp("sparse")
    (folder / "images").symlink_to(tiny_data / "images")
    (folder / "val.json").write_text((tiny_data / "val.json").read_text())
    records = json.loads((tiny_data / "train.json").read_text())
    records["annotations"] = [a for a in records["annotations"] if a["image_id"] <= 4]
    (folder / "train.json").write_text(json.dumps(records))
    return folder


def test_some_process_gets_a_batch_without_objects(sparse_data):
    """What the next test is about does happen in it."""
    dataset, _ = read(sparse_data, "train")
    settings = {"size": (64, 96), "batch_size": 2, "training": True, "world_size": 2}
    loaders = [make_loader(dataset, rank=rank, **settings) for rank in range(2)]
    objects = [[int((batch.labels >= 0).sum()) for batch in loader] for loader in loaders]
    assert any((a == 0) != (b == 0) for a, b in zip(*objects, strict=True))


def test_two_processes_stopped_and_resumed_equal_one(sparse_data, tiny, tmp_path, start):
    two, one = tmp_path / "two", tmp_path / "one"
    process = start(tiny(sparse_data, two, *EVERYTHING, "--devices", "2"))
    wait_for(lambda: len(rows(two)) >= 1, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 143, said
    assert said.count("--resume") == 1, said
    assert "Traceback" not in said
    assert 0 < read_checkpoint(two / "last.ckpt")["libradet"]["batches_done"] < 6

    process = start(["train", "--resume", two])
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert main(tiny(sparse_data, one, *EVERYTHING, "--batch_size", "4")) == 0

    states = [read_checkpoint(folder / "last.ckpt")["current_model_state"] for folder in (two, one)]
    for name, value in states[0].items():
        torch.testing.assert_close(
            value, states[1][name], rtol=1e-5, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )
    measured = json.loads((two / "metrics.json").read_text())
    alone = evaluate(two / "best.safetensors", sparse_data, batch_size=2, workers=0, progress=False)
    assert {name: measured[name] for name in alone if name != "notes"} == {
        name: value for name, value in alone.items() if name != "notes"
    }


def test_another_number_of_processes_cannot_go_on(sparse_data, tiny, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(tiny(sparse_data, out, "--max_steps", "1")) == 0
    assert main(["train", "--resume", str(out), "--devices", "2", "--max_steps", "2"]) == 2
    assert "processes" in capsys.readouterr().err
