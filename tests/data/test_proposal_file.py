"""Proposal files: written and read again; damaged ones are refused."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from libradet.data.proposals.precomputed import proposals_for_dataset
from libradet.data.proposals.proposal_file import FORMAT, read_proposals, write_proposals
from libradet.data.read import read
from libradet.errors import UserError
from tests.helpers.data_building import write
from tests.helpers.proposals import assert_refused, boxes_by_image, random_proposals, same_boxes


@pytest.fixture
def dataset(tmp_path):
    return read(write(tmp_path / "set"))[0]


def test_scalar_tensors_are_refused(tmp_path):
    import torch
    from safetensors.torch import save_file

    from libradet.data.proposals.proposal_file import FORMAT

    parts = {"ids": torch.tensor(1), "names": torch.frombuffer(bytearray(b'["a"]'), dtype=torch.uint8)}
    parts |= {"sizes": torch.ones(1, 2, dtype=torch.int32), "offsets": torch.tensor([0, 1])}
    save_file(parts | {"boxes": torch.zeros(1, 4), "scores": torch.tensor(0.5)}, tmp_path / "x", {"format": FORMAT})
    with pytest.raises(UserError, match="are inconsistent"):
        read_proposals(tmp_path / "x")


@pytest.mark.parametrize("shuffled", [False, True])
def test_round_trip(dataset, tmp_path, shuffled):
    found = random_proposals(dataset)
    path = tmp_path / "new" / "x.safetensors"
    write_proposals(path, found[::-1] if shuffled else found, "rpn")
    file = read_proposals(path)
    assert (len(file), file.max_per_image) == (4, 5)
    precomputed = proposals_for_dataset(path, dataset, 1000)
    assert precomputed.num_proposals == 5
    assert same_boxes(boxes_by_image(precomputed, dataset), found)
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("offsets", lambda t: t.flip(0)),
        ("offsets", lambda t: t[:-1]),
        ("boxes", lambda t: t[:-1]),
        ("boxes", lambda t: t.half()),
        ("names", lambda t: t[:-1]),
        ("names", lambda t: torch.tensor(list(b'{"a": 1}'), dtype=torch.uint8)),
        ("sizes", lambda t: t[:, :1].contiguous()),
        ("scores", None),
    ],
)
def test_damaged_files_are_refused(dataset, tmp_path, name, change):
    path = tmp_path / "x.safetensors"
    write_proposals(path, random_proposals(dataset), "rpn")
    tensors = load_file(path)
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, path, {"format": FORMAT})
    assert_refused(path, dataset, "damaged")


def test_other_files_are_refused(dataset, tmp_path):
    assert_refused(tmp_path / "absent.pkl", dataset, "cannot be read")
    for content in (b"", b"hello", b"PK\x03\x04 something", b"\x80\x04]\x94."):
        (tmp_path / "x.pkl").write_bytes(content)
        assert_refused(tmp_path / "x.pkl", dataset, "not a proposal file")
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert_refused(tmp_path / "model.safetensors", dataset, "not a proposal file")
    whole = tmp_path / "y.safetensors"
    write_proposals(whole, random_proposals(dataset), "rpn")
    whole.write_bytes(whole.read_bytes()[:-5])
    assert_refused(whole, dataset, "damaged")
