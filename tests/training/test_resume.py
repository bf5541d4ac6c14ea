"""Tests of what is read of a run folder before a run is resumed."""

from dataclasses import asdict

import pytest
import torch

from libradet.data.proposals.precomputed import proposals_for_dataset
from libradet.data.proposals.proposal_file import write_proposals
from libradet.data.read import read
from libradet.errors import UserError
from libradet.training.config import TrainConfig
from libradet.training.options import parse_train
from libradet.training.resume import (
    ResumeState,
    load_resume_state,
    newest_intact_checkpoint,
    read_checkpoint,
    run_identity,
)
from tests.helpers.data_building import write
from tests.helpers.proposals import random_proposals


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


def test_other_proposals_of_the_same_images_are_refused(tmp_path):
    dataset = read(write(tmp_path / "set"))[0]
    found = random_proposals(dataset)
    moved = [found[0]._replace(boxes=found[0].boxes + 1), *found[1:]]
    fewer = [found[0]._replace(boxes=found[0].boxes[:-1], scores=found[0].scores[:-1]), *found[1:]]
    identities = {}
    for name, images in {"same": found, "in_another_order": found[::-1], "moved": moved, "fewer": fewer}.items():
        write_proposals(tmp_path / f"{name}.safetensors", images, "rpn")
        proposals = proposals_for_dataset(tmp_path / f"{name}.safetensors", dataset, 1000)
        config = TrainConfig(data=str(tmp_path), model="fast_rcnn")
        identities[name] = run_identity(config, dataset, dataset, proposals=(proposals, proposals))
    saved = asdict(identities["same"])
    progress = {"libradet": {"run_identity": saved, "batches_done": 3}, "callbacks": {}, "global_step": 3}
    torch.save(progress, tmp_path / "last.ckpt")
    for name in ("same", "in_another_order"):
        assert load_resume_state(tmp_path, identities[name], dataset, dataset).batches == 3
    for name in ("moved", "fewer"):
        with pytest.raises(UserError, match="the precomputed proposals for training have changed"):
            load_resume_state(tmp_path, identities[name], dataset, dataset)
