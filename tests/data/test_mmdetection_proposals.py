"""Proposal files of mmdetection: read without executing anything."""

import collections
import os
import pickle
import sys
import types

import numpy as np
import pytest

from libradet.cli import main
from libradet.data.proposals.precomputed import proposals_for_dataset, proposals_for_images
from libradet.data.read import read
from libradet.errors import UserError
from tests.helpers.data_building import records, write
from tests.helpers.proposals import assert_refused, boxes_by_image, random_proposals, same_boxes


@pytest.fixture
def dataset(tmp_path):
    return read(write(tmp_path / "set"))[0]


def dump(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def rows(p, dtype=np.float32):
    return np.concatenate([p.boxes, p.scores[:, None]], 1).astype(dtype)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lists_in_the_order_of_the_annotation_file(dataset, tmp_path, protocol, dtype):
    found = random_proposals(dataset)
    path = dump(tmp_path / "x.pkl", [rows(p, dtype) for p in found], protocol)
    assert same_boxes(boxes_by_image(proposals_for_dataset(path, dataset, 9), dataset), found)
    bare = dump(tmp_path / "y.pkl", [p.boxes for p in found], protocol)
    assert same_boxes(boxes_by_image(proposals_for_dataset(bare, dataset, 9), dataset), found)
    with pytest.raises(UserError, match="in the order of an annotation file"):
        proposals_for_images(path, [p.path for p in dataset.images], 9)


def test_lists_of_another_dataset_are_refused(dataset, tmp_path):
    found = [rows(p) for p in random_proposals(dataset, (4, 4, 4, 4))]
    assert_refused(dump(tmp_path / "x.pkl", found[:3]), dataset, "3 images in the order.* there are 4 images")
    found[0][0, :4], found[1][0, :4] = (0, 0, 64, 48), (0, 0, 48, 64)
    proposals_for_dataset(dump(tmp_path / "x.pkl", found), dataset, 9)
    swapped = [found[1], found[0], *found[2:]]
    assert_refused(dump(tmp_path / "x.pkl", swapped), dataset, r"2 of 4 .*p0\.png, p1\.png.*another order")


@pytest.fixture
def instance_data(monkeypatch):
    """A class that is pickled like mmengine's, and removed afterwards."""

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
    found = random_proposals(dataset)
    make = {"InstanceData": instance_data}.get(kind, dict)
    content = {f"data/set/{p.name}": make(bboxes=p.boxes, scores=p.scores) for p in found[::-1]}
    path = dump(tmp_path / "x.pkl", collections.OrderedDict(content) if kind == "OrderedDict" else content)
    for name in ("mmengine", "mmengine.structures", "mmengine.structures.instance_data"):
        monkeypatch.delitem(sys.modules, name)
    assert same_boxes(boxes_by_image(proposals_for_dataset(path, dataset, 9), dataset), found)
    precomputed = proposals_for_images(path, [p.path for p in dataset.images], 9)
    assert same_boxes(boxes_by_image(precomputed, dataset), found)
    del content[f"data/set/{found[1].name}"]
    assert_refused(dump(tmp_path / "y.pkl", {k: rows(found[0]) for k in content}), dataset, r"1 of 4 .*p1\.png")


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
def test_other_pickles_are_refused(dataset, tmp_path, content):
    assert_refused(dump(tmp_path / "x.pkl", content), dataset, "proposal")


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
def test_hostile_pickles_are_refused_without_execution(
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
    options = ["--backbone", "test_resnet", "--data", str(dataset.root), "--output_dir", str(tmp_path / "run")]
    assert main(["train", "--model", "fast_rcnn", *options, "--proposals", str(path)]) == 2
    output = capfd.readouterr().err
    assert named in output
    assert "x.pkl" in output
    assert len(output.strip().splitlines()) == 1
    assert not mark.exists()
    assert not (tmp_path / "run").exists()
    assert len(records()["images"]) == len(dataset)
