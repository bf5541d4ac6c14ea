"""Checkpoint files are read without executing anything in them."""

import argparse
import collections
import os
import pickle
import sys
import tarfile
import types
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from libradet.errors import UserError
from libradet.interop.reading import read_checkpoint

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1.5]), "n": torch.tensor(7)}


def same(tensors):
    return list(tensors) == list(STATE) and all(torch.equal(tensors[n], t) for n, t in STATE.items())


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [dict, lambda s: {"state_dict": collections.OrderedDict(s)}, lambda s: {"model": s}])
def test_pytorch_files(tmp_path, zipped, wrap):
    state = {f"module.{name}": t for name, t in STATE.items()}
    torch.save(wrap(state), tmp_path / "any.name", _use_new_zipfile_serialization=zipped)
    assert same(read_checkpoint(tmp_path / "any.name").tensors)


def test_parameters_views_and_types(tmp_path):
    base = torch.randn(4, 6)
    state = {"p": torch.nn.Parameter(base), "t": base.t(), "part": base[1:3, ::2], "h": base.half(), "e": base[:0]}
    torch.save(state, tmp_path / "x.pth")
    tensors = read_checkpoint(tmp_path / "x.pth").tensors
    assert {n: t.dtype for n, t in tensors.items()} == {n: t.dtype for n, t in state.items()}
    assert all(torch.equal(tensors[n], t) and not tensors[n].requires_grad for n, t in state.items())


def test_safetensors(tmp_path):
    save_file(STATE, tmp_path / "x.bin", {"note": "hello"})
    tensors, meta, _ = read_checkpoint(tmp_path / "x.bin")
    assert set(tensors) == set(STATE)
    assert meta == {"note": "hello"}


@pytest.mark.parametrize("name", ["x.onnx", "x.pt2"])
def test_exported_files_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x08\x08\x12\x07pytorch")
    with pytest.raises(UserError, match=r"is an exported file, not a checkpoint; name the model that it was exported"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_in_a_pickle(tmp_path, protocol):
    model = {name: t.numpy() for name, t in STATE.items()}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": model, "__author__": "somebody"}, protocol))
    assert same(read_checkpoint(tmp_path / "x.pkl").tensors)


def test_checkpoint_of_mmengine_runner(shared_data):
    path = shared_data.parent / "parity" / "checkpoints" / "runner_epoch.pth"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    tensors, meta, _ = read_checkpoint(path)
    assert len(tensors) == 356
    assert tensors["backbone.conv1.weight"].shape == (64, 3, 7, 7)
    assert meta["dataset_meta"]["classes"][:2] == ("person", "bicycle")
    assert "mmengine" not in sys.modules


def test_packages_of_trainer_objects_are_never_imported(tmp_path, monkeypatch):
    module = types.ModuleType("mmengine.surprise")

    class Surprise(list):
        def __setstate__(self, state):
            raise AssertionError("called")

        def method(self):
            return None

    Surprise.__module__, Surprise.__qualname__ = module.__name__, "Surprise"
    module.Surprise = Surprise
    monkeypatch.setitem(sys.modules, "mmengine", types.ModuleType("mmengine"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    thing = Surprise([1, 2])
    thing.x = 3
    extra = {"hook": thing, "method": thing.method, "class": Surprise, "args": argparse.Namespace(lr=0.1)}
    torch.save({"model": STATE, **extra}, tmp_path / "x.pth")
    monkeypatch.delitem(sys.modules, module.__name__)
    assert same(read_checkpoint(tmp_path / "x.pth").tensors)
    assert module.__name__ not in sys.modules


class Reduced:
    """Pickled as a call of ``function`` with ``args``, and an attribute set afterwards if there is ``state``."""

    def __init__(self, function, *args, state=None):
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.parts


def by_name(module, name):
    """A pickle of a global, whatever it is, as text."""
    return f"c{module}\n{name}\n".encode()


HOSTILE = {
    "posix.system": lambda mark: Reduced(os.system, f"touch {mark}"),
    "builtins.exec": lambda mark: Reduced(exec, f"open({str(mark)!r}, 'w')"),
    "builtins.eval": lambda mark: Reduced(eval, f"open({str(mark)!r}, 'w')"),
    "io.open": lambda mark: Reduced(open, str(mark), "w"),
    "getattr": lambda mark: Reduced(getattr, torch.Size([1]), "__class__"),
    "torch.hub.load": lambda mark: Reduced(torch.hub.load, "a/b", "c"),
    "torch.serialization.load": lambda mark: Reduced(torch.load, str(mark)),
    "builtins.__import__": lambda mark: Reduced(__import__, "antigravity"),
    "importlib.import_module": lambda mark: Reduced(__import__("importlib").import_module, "antigravity"),
    "torch.nn.modules.linear.Linear": lambda mark: torch.nn.Linear(1, 1),
    "builtins.bytes": lambda mark: Reduced(bytes, 10**12),
    "codec": lambda mark: Reduced(__import__("_codecs").encode, "x", "zip"),
    "functools.partial": lambda mark: __import__("functools").partial(os.system, f"touch {mark}"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_hostile_files_are_refused_by_name(tmp_path, name, kind):
    mark, path = tmp_path / "mark", tmp_path / "x.pth"
    content = {"state_dict": STATE if kind != "pickle" else {}, "meta": HOSTILE[name](mark)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(UserError, match=r"x\.pth") as e:
        read_checkpoint(path)
    assert name in str(e.value)
    assert not mark.exists()
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "code",
    [
        # getattr of getattr's result; changes of a class, a function and a placeholder class.
        b"c__builtin__\ngetattr\n(" + by_name("torch", "Size") + b"V__call__\ntR.",
        by_name("numpy", "dtype") + b"(N(dVx\nI1\nstb.",
        by_name("torch._utils", "_rebuild_tensor_v2") + b"(dV__defaults__\nNsb.",
        by_name("mmengine.x", "Y") + b"(N(dV__new__\n" + by_name("torch", "Size") + b"stb.",
        by_name("mmengine.x", "Y.__init__.__globals__") + b"(dVx\nI1\nsb.",
    ],
)
def test_classes_and_functions_cannot_be_changed(tmp_path, code):
    (tmp_path / "x.pkl").write_bytes(code)
    before = dict(vars(np.dtype))
    with pytest.raises(UserError, match=r"x\.pkl"):
        read_checkpoint(tmp_path / "x.pkl")
    assert dict(vars(np.dtype)) == before


def test_tar_archives_and_compressed_files_are_refused(tmp_path):
    (tmp_path / "inside").write_bytes(b"x" * 1000)
    with tarfile.open(tmp_path / "x.pth", "w") as archive:
        archive.add(tmp_path / "inside", "../storages")
    with pytest.raises(UserError, match=r"x\.pth: a tar archive"):
        read_checkpoint(tmp_path / "x.pth")
    torch.save(STATE, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "y.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(UserError, match=r"y\.pth: its members are compressed"):
        read_checkpoint(tmp_path / "y.pth")


def test_arrays_without_content_allocate_no_memory(tmp_path):
    # An array of 2**40 bytes, made by itself and in the way that arrays are pickled.
    start, array, path = b"(Vmodel\n(Va\n", by_name("numpy", "ndarray"), tmp_path / "x.pkl"
    path.write_bytes(start + array + b"((L1099511627776L\ntV|u1\ntRdd.")
    with pytest.raises(UserError, match="'a' is not a tensor"):
        read_checkpoint(path)
    reconstruct = by_name("numpy.core.multiarray", "_reconstruct")
    path.write_bytes(start + reconstruct + b"(" + array + b"(L1099511627776L\ntC\x01btRdd.")
    assert read_checkpoint(path).tensors["a"].numel() == 0


def test_names_have_to_be_text(tmp_path):
    torch.save({"state_dict": {("a", "b"): torch.ones(1)}}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="a name is a tuple instead of text"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "x.pt")
    with pytest.raises(UserError, match="TorchScript"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 not really", b"\x80\x02.", b"\x80\x04]\x94."])
def test_damaged_files(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.pth") as e:
        read_checkpoint(tmp_path / "x.pth")
    assert len(str(e.value).splitlines()) <= 2


def test_missing_files_and_tensors(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_checkpoint(tmp_path / "absent.pth")
    torch.save({"state_dict": {"a": 1}}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="'a' is not a tensor"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"train: images/train\nnames: [cat]\n", "a text file, without weights"),
        (b"<html>Sign in</html>", "a text file, without weights"),
        (b"", "an empty file"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "an image"),
        (b"\x89PNG\r\n\x1a\n", "an image"),
        (b"\x80\x02}q", "[A-Za-z]+Error: .*"),
    ],
)
def test_files_that_are_no_checkpoints_are_named(content, reason, tmp_path):
    path = tmp_path / "data.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"data\.yaml: not a readable checkpoint \({reason}\)$"):
        read_checkpoint(path)
