"""Proposal files: what is written is read, other toolboxes' are read without being run, and images get their own."""

import collections
import os
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from data_building import SIZES, records, write
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from libradet.cli import main
from libradet.data.loading.augmentation import Augmentation
from libradet.data.loading.loader import make_loader
from libradet.data.proposals.given import find_file, give_to_dataset, give_to_files
from libradet.data.proposals.proposal_file import FORMAT, Proposed, read_proposals, write_proposals
from libradet.data.read import read
from libradet.errors import UserError


@pytest.fixture
def dataset(tmp_path):
    return read(write(tmp_path / "set"))[0]


def proposed(dataset, counts=(3, 0, 5, 1), seed=0):
    """Random proposals in the images of a dataset, best first."""
    rng = np.random.default_rng(seed)
    found = []
    for p, count in zip(dataset.images, counts, strict=True):
        corners = rng.uniform(0, [p.width, p.height], (count, 2, 2))
        boxes = np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)
        scores = np.sort(rng.random(count))[::-1].astype(np.float32)
        found.append(Proposed(p.id, f"images/{p.path.name}", p.width, p.height, boxes, scores))
    return found


def taken(given, dataset):
    """The proposals of every image."""
    return [given.of(i, p.width, p.height).numpy() for i, p in enumerate(dataset.images)]


def same(boxes, found):
    return all(np.array_equal(a, p.boxes) for a, p in zip(boxes, found, strict=True))


@pytest.mark.parametrize("shuffled", [False, True])
def test_what_is_written_is_read(dataset, tmp_path, shuffled):
    found = proposed(dataset)
    path = tmp_path / "new" / "x.safetensors"
    write_proposals(path, found[::-1] if shuffled else found, "rpn")
    file = read_proposals(path)
    assert (len(file), file.most) == (4, 5)
    given_ = give_to_dataset(path, dataset, 1000)
    assert given_.count == 5
    assert same(taken(given_, dataset), found)
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_best_are_taken_whatever_their_order(dataset, tmp_path):
    found = proposed(dataset)
    mixed = [p._replace(boxes=p.boxes[::-1].copy(), scores=p.scores[::-1].copy()) for p in found]
    write_proposals(tmp_path / "x.safetensors", mixed, "rpn")
    given_ = give_to_dataset(tmp_path / "x.safetensors", dataset, 2)
    assert given_.count == 2
    assert same(taken(given_, dataset), [p._replace(boxes=p.boxes[:2]) for p in found])


def test_boxes_end_at_the_border_and_have_to_be_numbers(dataset, tmp_path):
    found = proposed(dataset)
    found[0].boxes[0] = (-3, -2, 900, 7)
    found[2].boxes[1, 3] = np.nan
    write_proposals(tmp_path / "x.safetensors", found, "rpn")
    given_ = give_to_dataset(tmp_path / "x.safetensors", dataset, 10)
    assert given_.of(0, *SIZES[0])[0].tolist() == [0, 0, SIZES[0][0], 7]
    with pytest.raises(UserError, match=r"images/p2\.png are not numbers"):
        given_.of(2, *SIZES[2])


def test_images_without_any_proposal(dataset, tmp_path):
    write_proposals(tmp_path / "x.safetensors", proposed(dataset, (0, 0, 0, 0)), "rpn")
    given_ = give_to_dataset(tmp_path / "x.safetensors", dataset, 10)
    batch = next(iter(loader(dataset, given_)))
    assert batch.proposals.shape == (batch.images.shape[0], 1, 4)
    assert not batch.proposals.any()


def loader(dataset, given_, size="original", flip=0.5, **options):
    options |= {"augmentation": Augmentation(flip=flip), "proposals": given_}
    return make_loader(dataset, size=size, batch_size=2, training=True, divisor=8, **options)


@given(st.integers(20, 120), st.integers(20, 200), st.integers(0, 9), st.sampled_from([0.0, 0.5, 1.0]))
def test_proposals_go_where_the_ground_truth_goes(set_and_truth, short, long, seed, flip):
    """Ground truths written as proposals come out of resizing and flipping as the ground truths do."""
    dataset, path = set_and_truth
    given_ = give_to_dataset(path, dataset, 7)
    for batch in loader(dataset, given_, (short, long), seed=seed, flip=flip):
        assert batch.proposals.shape[1] == given_.count == 2
        for boxes, labels, proposals in zip(batch.boxes, batch.labels, batch.proposals, strict=True):
            held = int((labels >= 0).sum())
            assert torch.equal(proposals[:held], boxes[:held])
            assert not proposals[held:].any()


@given(st.floats(0.3, 2.5), st.integers(0, 9))
def test_proposals_are_cut_like_the_ground_truth(set_and_truth, factor, seed):
    """Every ground truth that is left after a random crop has its proposal, and no proposal leaves its image."""
    dataset, path = set_and_truth
    given_ = give_to_dataset(path, dataset, 7)
    augmentation = Augmentation(scale_jitter=(factor, factor))
    options = {"size": (60, 80), "batch_size": 2, "training": True, "divisor": 8, "seed": seed}
    for batch in make_loader(dataset, augmentation=augmentation, proposals=given_, **options):
        for boxes, labels, proposals, size in zip(batch.boxes, batch.labels, batch.proposals, batch.sizes, strict=True):
            assert all((box == proposals).all(1).any() for box in boxes[labels >= 0])
            assert (proposals <= size.flip(0).repeat(2)).all()


@pytest.fixture(scope="module")
def set_and_truth(tmp_path_factory):
    root = tmp_path_factory.mktemp("truth")
    dataset, _ = read(write(root / "set"))
    entries = [
        Proposed(p.id, p.path.name, p.width, p.height, p.boxes, np.ones(len(p.boxes), np.float32))
        for p in dataset.images
    ]
    write_proposals(root / "x.safetensors", entries, "rpn")
    return dataset, root / "x.safetensors"


def test_workers_give_the_same(set_and_truth):
    dataset, path = set_and_truth
    given_ = give_to_dataset(path, dataset, 7)
    alone, helped = (list(loader(dataset, given_, (60, 90), workers=workers)) for workers in (0, 2))
    assert all(torch.equal(a.proposals, b.proposals) for a, b in zip(alone, helped, strict=True))


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_proposals_lie_on_what_they_were_made_for(dataset, tmp_path, flip):
    """White rectangles on black images are still inside their proposals, and fill them."""
    found = []
    for p in dataset.images:
        pixels = np.zeros((p.height, p.width, 3), np.uint8)
        pixels[10:30, 4:24] = 255
        Image.fromarray(pixels).save(p.path)
        box = np.array([[4, 10, 24, 30]], np.float32)
        found.append(Proposed(p.id, p.path.name, p.width, p.height, box, np.ones(1, np.float32)))
    write_proposals(tmp_path / "x.safetensors", found, "rpn")
    given_ = give_to_dataset(tmp_path / "x.safetensors", dataset, 10)
    for batch in loader(dataset, given_, (90, 120), flip=flip):
        for image, (box,) in zip(batch.images, batch.proposals, strict=True):
            ys, xs = torch.nonzero(image[0] > 127, as_tuple=True)
            extent = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            assert (extent - box).abs().max() < 1.01


def test_a_file_for_every_split(dataset, tmp_path):
    folder = tmp_path / "props"
    folder.mkdir()
    for name in ("train2017.safetensors", "rpn_r50_val2017.pkl", "notes.txt"):
        (folder / name).touch()
    assert find_file(folder, "train2017").name == find_file(folder, "train").name == "train2017.safetensors"
    assert find_file(folder, "val").name == "rpn_r50_val2017.pkl"
    assert find_file(folder / "notes.txt", "val").name == "notes.txt"
    with pytest.raises(UserError, match=r"named after test.*rpn_r50_val2017\.pkl, train2017\.safetensors"):
        find_file(folder, "test")
    (folder / "other-val2017.pkl").touch()
    with pytest.raises(UserError, match="several files"):
        find_file(folder, "val2017")


def test_images_of_one_name_are_told_apart(tmp_path):
    paths = [tmp_path / part / "a.png" for part in ("one", "two")]
    found = [
        Proposed(i, f"x/{p.parent.name}/a.png", 8, 8, np.full((1, 4), i + 1.0), np.ones(1)) for i, p in enumerate(paths)
    ]
    write_proposals(tmp_path / "x.safetensors", found, "rpn")
    given_ = give_to_files(tmp_path / "x.safetensors", paths[::-1], 9)
    assert given_.rows.tolist() == [1, 0]
    with pytest.raises(UserError, match="1 of 2 named images"):
        give_to_files(tmp_path / "x.safetensors", [paths[0], tmp_path / "three" / "a.png"], 9)


def refused(path, dataset, match):
    with pytest.raises(UserError, match=match) as error:
        give_to_dataset(path, dataset, 10)
    assert path.name in str(error.value)
    assert len(str(error.value).splitlines()) <= 2


def test_files_of_other_images_are_refused(dataset, tmp_path):
    path, found = tmp_path / "x.safetensors", proposed(dataset)
    write_proposals(path, found[:2], "rpn")
    refused(path, dataset, r"2 of 4 images of all of .* have no proposals in it \(p2\.png, p3\.png\)")
    write_proposals(path, [p._replace(name=f"q{p.id}.png") for p in found], "rpn")
    refused(path, dataset, r"another dataset or split.*q10\.png.*p0\.png")
    write_proposals(path, [found[0]._replace(width=99), *found[1:]], "rpn")
    refused(path, dataset, r"p0\.png was 99x48 when it was made and is 64x48 \(1 of 4 are\)")
    # Ids of another origin do not matter where names and sizes are right.
    write_proposals(path, [p._replace(id=p.id - 9) for p in found], "rpn")
    assert same(taken(give_to_dataset(path, dataset, 10), dataset), found)


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
    write_proposals(path, proposed(dataset), "rpn")
    tensors = load_file(path)
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, path, {"format": FORMAT})
    refused(path, dataset, "damaged")


def test_what_is_no_proposal_file(dataset, tmp_path):
    refused(tmp_path / "absent.pkl", dataset, "cannot be read")
    for content in (b"", b"hello", b"PK\x03\x04 something", b"\x80\x04]\x94."):
        (tmp_path / "x.pkl").write_bytes(content)
        refused(tmp_path / "x.pkl", dataset, "not a proposal file")
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    refused(tmp_path / "model.safetensors", dataset, "not a proposal file")
    whole = tmp_path / "y.safetensors"
    write_proposals(whole, proposed(dataset), "rpn")
    whole.write_bytes(whole.read_bytes()[:-5])
    refused(whole, dataset, "damaged")


def dump(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def rows(p, dtype=np.float32):
    return np.concatenate([p.boxes, p.scores[:, None]], 1).astype(dtype)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lists_in_the_order_of_the_annotation_file(dataset, tmp_path, protocol, dtype):
    found = proposed(dataset)
    path = dump(tmp_path / "x.pkl", [rows(p, dtype) for p in found], protocol)
    assert same(taken(give_to_dataset(path, dataset, 9), dataset), found)
    bare = dump(tmp_path / "y.pkl", [p.boxes for p in found], protocol)
    assert same(taken(give_to_dataset(bare, dataset, 9), dataset), found)
    with pytest.raises(UserError, match="in the order of an annotation file"):
        give_to_files(path, [p.path for p in dataset.images], 9)


def test_lists_of_another_data_set(dataset, tmp_path):
    found = [rows(p) for p in proposed(dataset, (4, 4, 4, 4))]
    refused(dump(tmp_path / "x.pkl", found[:3]), dataset, "3 images in the order.* there are 4 images")
    found[0][0, :4], found[1][0, :4] = (0, 0, 64, 48), (0, 0, 48, 64)
    give_to_dataset(dump(tmp_path / "x.pkl", found), dataset, 9)
    swapped = [found[1], found[0], *found[2:]]
    refused(dump(tmp_path / "x.pkl", swapped), dataset, r"2 of 4 .*p0\.png, p1\.png.*another order")


@pytest.fixture
def instance_data(monkeypatch):
    """A class that is pickled as mmengine's, and is gone afterwards."""

    class InstanceData:
        def __init__(self, **fields):
            self._data_fields, self._metainfo_fields = set(fields), set()
            self.__dict__.update(fields)

    module = types.ModuleType("mmengine.structures.instance_data")
    InstanceData.__module__, InstanceData.__qualname__ = module.__name__, "InstanceData"
    module.InstanceData = InstanceData
    for name in ("mmengine", "mmengine.structures"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    yield InstanceData
    assert module.__name__ not in sys.modules


@pytest.mark.parametrize("kind", ["InstanceData", "dict", "OrderedDict"])
def test_dictionaries_by_image(dataset, tmp_path, instance_data, monkeypatch, kind):
    found = proposed(dataset)
    make = {"InstanceData": instance_data}.get(kind, dict)
    content = {f"data/set/{p.name}": make(bboxes=p.boxes, scores=p.scores) for p in found[::-1]}
    path = dump(tmp_path / "x.pkl", collections.OrderedDict(content) if kind == "OrderedDict" else content)
    for name in ("mmengine", "mmengine.structures", "mmengine.structures.instance_data"):
        monkeypatch.delitem(sys.modules, name)
    assert same(taken(give_to_dataset(path, dataset, 9), dataset), found)
    given_ = give_to_files(path, [p.path for p in dataset.images], 9)
    assert same(taken(given_, dataset), found)
    del content[f"data/set/{found[1].name}"]
    refused(dump(tmp_path / "y.pkl", {k: rows(found[0]) for k in content}), dataset, r"1 of 4 .*p1\.png")


@pytest.mark.parametrize(
    "content",
    [
        [np.zeros((3, 6))],
        [[np.zeros((3, 5))] * 3],
        {"a.png": {"boxes": np.zeros((3, 4))}},
        {"a.png": {"bboxes": np.zeros((3, 4)), "scores": np.zeros(2)}},
        {3: np.zeros((3, 5))},
        [np.array([["x"] * 5])],
        [np.array([[None] * 5])],
        "proposals",
    ],
)
def test_pickles_of_something_else(dataset, tmp_path, content):
    refused(dump(tmp_path / "x.pkl", content), dataset, "proposal")


class Reduced:
    """Pickled as a call of ``function`` with ``args``."""

    def __init__(self, function, *args):
        self.parts = (function, args)

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize("where", ["list", "dict", "InstanceData"])
@pytest.mark.parametrize(
    ("named", "evil"),
    [
        ("posix.system", lambda mark: Reduced(os.system, f"touch {mark}")),
        ("builtins.exec", lambda mark: Reduced(exec, f"open({str(mark)!r}, 'w')")),
        ("io.open", lambda mark: Reduced(open, str(mark), "w")),
    ],
)
def test_hostile_pickles_end_the_command_and_nothing_else(
    dataset, tmp_path, capfd, instance_data, monkeypatch, where, named, evil
):
    mark, thing = tmp_path / "mark", evil(tmp_path / "mark")
    content = {
        "list": [thing],
        "dict": {"p0.png": {"bboxes": np.zeros((1, 4)), "scores": thing}},
        "InstanceData": {"p0.png": instance_data(bboxes=thing)},
    }[where]
    path = dump(tmp_path / "x.pkl", content)
    for name in ("mmengine", "mmengine.structures", "mmengine.structures.instance_data"):
        monkeypatch.delitem(sys.modules, name)
    options = ["--backbone", "test_resnet", "--data", str(dataset.root), "--out", str(tmp_path / "run")]
    assert main(["train", "--model", "fast_rcnn", *options, "--proposals", str(path)]) == 2
    said = capfd.readouterr().err
    assert named in said
    assert "x.pkl" in said
    assert len(said.strip().splitlines()) == 1
    assert not mark.exists()
    assert not (tmp_path / "run").exists()
    assert len(records()["images"]) == len(dataset)
