"""Verdict of ``data check``: it agrees with training, and unreadable datasets are an error without a table."""

import json

import pytest

from libradet.cli.app import main
from libradet.data.read import check, read
from libradet.data.synthesis.synthetic import synthesize
from libradet.errors import UserError
from libradet.training.datamodule import read_splits
from tests.helpers.data_building import damaged, records, write


def run_check(capsys, *arguments):
    status = main(["data", "check", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_split_for_evaluation_only_is_not_ready_to_train(tmp_path, capsys):
    write(tmp_path, name="val.json")
    with pytest.raises(UserError, match="there is no split 'train'"):
        read_splits(tmp_path)
    status, output, _ = run_check(capsys, tmp_path)
    assert status == 0
    assert "Ready to train" not in output
    assert "Ready for evaluation only, not to train (there is no split 'train', only val)." in " ".join(output.split())


@pytest.mark.parametrize(("name", "ready"), [("train.json", True), ("annotations.json", True), ("test.json", False)])
def test_verdict_agrees_with_training(tmp_path, capsys, name, ready):
    write(tmp_path, name=name)
    assert ("Ready to train." in run_check(capsys, tmp_path)[1]) == ready
    if ready:
        assert len(read_splits(tmp_path)[0]) == 4
    else:
        with pytest.raises(UserError):
            read_splits(tmp_path)


def test_file_left_aside_is_named_last(tmp_path, capsys):
    write(tmp_path, name="val.json")
    write(tmp_path)
    _, output, _ = run_check(capsys, tmp_path)
    end = " ".join(output.split("Ready for evaluation only")[1].split())
    assert "Not used: annotations.json, because val.json exists" in end


def test_split_other_than_train_is_checked_for_evaluation(tmp_path, capsys):
    content = records()
    write(tmp_path, content | {"annotations": []}, name="val.json")
    write(tmp_path, content, name="train.json")
    assert "Ready for evaluation only" in run_check(capsys, tmp_path, "--split", "val")[1]
    assert "Ready to train." in run_check(capsys, tmp_path, "--split", "train")[1]


@pytest.mark.parametrize("arguments", [["nodir"], ["data", "--split", "unknown"]])
def test_unreadable_is_an_error_without_table(tmp_path, capsys, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data", name="train.json")
    status, output, error = run_check(capsys, *arguments, "--json", "report.json")
    assert (status, output) == (2, "")
    assert arguments[-1] in error
    assert "images" not in error
    assert json.loads((tmp_path / "report.json").read_text())["errors"]


def test_number_of_crowd_objects_is_reported(tmp_path):
    def damage(content):
        for annotation in content["annotations"][:3]:
            annotation["iscrowd"] = 1

    report = check(damaged(tmp_path, damage))
    assert "3 of 4 objects are iscrowd: neither targets nor negatives" in report.notes
    assert not report.errors


def test_all_objects_are_crowd(tmp_path):
    root = damaged(tmp_path, lambda content: [a.update(iscrowd=1) for a in content["annotations"]])
    with pytest.raises(UserError, match=r"no boxes to train on .* all 4 objects are iscrowd"):
        read(root)


@pytest.mark.parametrize("present", ["train.json", "val.json", "images/x.png", "annotations.json"])
def test_synthesize_does_not_overwrite_a_dataset(tmp_path, present):
    (tmp_path / present).parent.mkdir(exist_ok=True)
    (tmp_path / present).write_text("mine")
    with pytest.raises(UserError, match="already holds a dataset"):
        synthesize(tmp_path, train=1, val=1, size=(96, 80))
    assert (tmp_path / present).read_text() == "mine"
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 1


def test_percent_encoded_and_resource_fork_names(tmp_path):
    root = damaged(tmp_path, lambda content: content["images"][0].update(file_name="data/upload/my%20p%25.png"))
    (root / "images/p0.png").rename(root / "images/my p%.png")
    (root / "images/sub/__MACOSX").mkdir(parents=True)
    for name in ("sub/__MACOSX/my p%.png", "sub/._my p%.png"):
        (root / "images" / name).write_bytes(b"fork")
    dataset, report = read(root)
    assert dataset.images[0].path == root / "images/my p%.png"
    assert any("1 image matched under a slightly different name" in note for note in report.notes)
