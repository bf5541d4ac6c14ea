"""Tests of what is read of a run folder before a run is resumed."""

import pytest
import torch

from libradet.errors import UserError
from libradet.training.options import parse_train
from libradet.training.resume import ResumeState, newest_intact_checkpoint, read_checkpoint


def test_a_folder_without_checkpoints_starts_at_the_beginning(tmp_path):
    assert newest_intact_checkpoint(tmp_path) == (None, "")
    assert ResumeState().batches == 0


def test_the_previous_checkpoint_is_used_if_the_last_is_missing_or_damaged(tmp_path):
    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    torch.save({"step": 1}, previous)
    assert newest_intact_checkpoint(tmp_path) == (previous, "last.ckpt is missing")
    torch.save({"step": 2}, last)
    assert newest_intact_checkpoint(tmp_path) == (last, "")
    last.write_bytes(last.read_bytes()[:-20])
    path, note = newest_intact_checkpoint(tmp_path)
    assert path == previous
    assert note.startswith("last.ckpt is damaged")
    previous.write_bytes(b"")
    with pytest.raises(UserError, match="cannot be resumed"):
        newest_intact_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"libradet": {"batches_done": 3, "circumstances": {"epochs": 12}}}, "written by an earlier version"),
        ({"state_dict": {}}, "not a checkpoint of libradet train"),
        ([1, 2], "not a checkpoint of libradet train"),
    ],
)
def test_other_checkpoints_are_refused_in_one_line(tmp_path, content, message):
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=message) as error:
        read_checkpoint(tmp_path / "last.ckpt")
    assert str(error.value).startswith(str(tmp_path / "last.ckpt"))
    assert len(str(error.value).splitlines()) == 1


def test_the_configuration_of_an_earlier_version_is_refused_in_one_line(tmp_path):
    (tmp_path / "config.yaml").write_text("data: somewhere\nepochs: 3\n")
    with pytest.raises(UserError, match=r"config.yaml: written by another version .*\(unknown: epochs\)") as error:
        parse_train(["--resume", str(tmp_path)])
    assert len(str(error.value).splitlines()) == 1
