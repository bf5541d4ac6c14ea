"""Models, other toolboxes' checkpoints and proposal files by grammar, and pickles that want to run something."""

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save, save_file

from libradet.data.proposals.proposal_file import FORMAT as PROPOSALS
from libradet.data.proposals.proposal_file import read_proposals
from libradet.interop.loading import FAMILIES, load_any, load_checkpoint, read_any_config
from libradet.models.create import create_model
from libradet.models.model_file import save_model
from libradet.models.saved_config import FORMAT
from libradet.models.zoo import make_config
from libradet.train_options import parse_train
from stress import hostile
from stress.mutate import Chance, damage, pick, tree

MODEL = "model.safetensors"


def prepare(base: Path) -> None:
    """A sound model to begin with."""
    torch.manual_seed(0)
    tiny = Path(__file__).parents[1] / "tests" / "training" / "tiny.yaml"
    request = parse_train(["--config", str(tiny), "--model", "faster_rcnn", "--data", "x"])
    request.detector.num_classes = 2
    model = create_model("faster_rcnn", config=request.detector, class_names=("cat", "dog"))
    save_model(model, base / MODEL)


def safetensors(chance: Chance, base: Path, folder: Path, canary: Path) -> str | None:
    """A model of ours: damaged as bytes, its configuration changed, or its tensors exchanged."""
    path, data = folder / "m.safetensors", (base / MODEL).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    how = chance.random()
    if how < 0.3:
        data = damage(chance, data[: 8 + length]) + data[8 + length :]
    elif how < 0.4:
        data = damage(chance, data)
    else:
        header = json.loads(data[8 : 8 + length])
        about = header.get("__metadata__", {})
        if how < 0.85:
            config = tree(chance, json.loads(about["config"]), int(chance.integers(1, 4)))
            about["config"] = json.dumps(config)
        else:
            header = tree(chance, header, int(chance.integers(1, 4)))
        text = json.dumps(header).encode("utf-8", "surrogatepass")
        data = struct.pack("<Q", len(text)) + text + data[8 + length :]
    path.write_bytes(data)
    read_any_config(path)
    load_any(path)
    return None


def checkpoint(chance: Chance, base: Path, folder: Path, canary: Path) -> str | None:
    """PyTorch files of both formats with names of the toolboxes: shapes that make no sense, damage, traps."""
    path, file = folder / "m.pth", io.BytesIO()
    how = chance.random()
    content: dict[str, Any] = {"state_dict": _state(chance), "meta": _meta(chance)}
    content = pick(chance, [content, content["state_dict"], {"model": content["state_dict"]}])
    if how < 0.35:
        content["optimizer"] = hostile.trap(chance, canary)
    zipped = bool(chance.integers(2))
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    data = file.getvalue()
    if how >= 0.5:
        data = damage(chance, data)
    if zipped and chance.random() < 0.3:
        data = _rezip(chance, data)
    path.write_bytes(data)
    return _load(chance, path)


def pickled(chance: Chance, base: Path, folder: Path, canary: Path) -> str | None:
    """Plain pickles, as detectron2 has them, and whatever else a pickle can say."""
    path = folder / "m.pkl"
    how = chance.random()
    if how < 0.3:
        path.write_bytes(hostile.program(chance, canary))
    else:
        arrays = {name: t.numpy() for name, t in _state(chance).items()}
        content = {"model": arrays, "__author__": "x"}
        if how < 0.6:
            content["more"] = hostile.trap(chance, canary)
        path.write_bytes(damage(chance, pickle.dumps(content, int(chance.integers(6)))))
    return _load(chance, path)


def _load(chance: Chance, path: Path) -> str | None:
    read_any_config(path)
    load_checkpoint(path, allow_partial=bool(chance.integers(2)))
    return None


def _state(chance: Chance) -> OrderedDict[str, torch.Tensor]:
    """Tensors under the names of some toolbox, with tiny shapes."""
    family = pick(chance, list(FAMILIES))
    name = pick(chance, ["faster_rcnn", "retinanet", "mask_rcnn", "cascade_rcnn", "rpn"])
    try:
        pairs = family.layout(None, make_config(name, num_classes=3)).pairs
    except Exception:  # what a toolbox does not have
        pairs = [("backbone.conv1", ""), ("rpn_head.rpn_conv", "")]
    state: OrderedDict[str, torch.Tensor] = OrderedDict()
    for theirs, _ in pairs:
        for part in ("weight", "bias"):
            if chance.random() < 0.9:
                shape = chance.integers(0, 5, int(pick(chance, [1, 1, 4, 4, 2, 0, 3]))).tolist()
                state[f"{theirs}.{part}"] = torch.zeros(
                    shape, dtype=pick(chance, [torch.float32, torch.half, torch.int64])
                )
    return state


def _meta(chance: Chance) -> Any:
    anchors = "anchor_generator=dict(scales=[8], ratios=[0.5, 1.0])"
    text = f"model = dict(rpn_head=dict({anchors})), test_cfg=dict(rcnn=dict(nms=dict(iou_threshold=0.5)))"
    meta = {"CLASSES": ("a", "b", "c"), "cfg": text, "dataset_meta": {"classes": ["a", "b"]}, "mmdet_version": "2.0"}
    return tree(chance, meta, int(chance.integers(0, 3)), None)


def _rezip(chance: Chance, data: bytes) -> bytes:
    """The same members, some compressed, renamed, left out, doubled or longer than they say."""
    out = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
            for name in old.namelist():
                content = old.read(name)
                how = chance.random()
                if how < 0.05:
                    continue
                if how < 0.1:
                    content = b"\0" * 1_000_000
                there = pick(chance, [name] * 20 + [f"../{name}", f"/{name}", "archive/constants.pkl"])
                new.writestr(there, content, pick(chance, [zipfile.ZIP_STORED] * 30 + [zipfile.ZIP_DEFLATED]))
    except Exception:
        return data
    return out.getvalue()


def proposals(chance: Chance, base: Path, folder: Path, canary: Path) -> str | None:
    """Proposal files: ours, changed as bytes or part by part, and mmdetection's pickles."""
    how = chance.random()
    if how < 0.5:
        path = folder / "p.safetensors"
        parts, about = _proposal_parts(chance)
        if how < 0.4:
            save_file(parts, path, about)
            path.write_bytes(damage(chance, path.read_bytes()) if how < 0.15 else path.read_bytes())
        else:
            path.write_bytes(damage(chance, save(parts, about)))
    else:
        path = folder / "p.pkl"
        rows = [_rows(chance) for _ in range(int(chance.integers(4)))]
        names = {
            f"a/p{i}.jpg": pick(chance, [r, {"bboxes": r[..., :4], "scores": r[..., -1]}])
            for i, r in enumerate(rows)
            if r.ndim and r.size
        }
        content = pick(
            chance, [rows, names, [hostile.trap(chance, canary)], {"a": hostile.trap(chance, canary)}, "x", None]
        )
        data = pickle.dumps(content, int(chance.integers(6)))
        path.write_bytes(data if how < 0.75 else damage(chance, data))
    file = read_proposals(path)
    if len(file.offsets) != len(file) + 1 or int(file.offsets[-1]) != len(file.boxes):
        return "its parts do not fit each other, and it was read"
    return None


def _proposal_parts(chance: Chance) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    names = json.dumps(["p0.png", "p1.png"]).encode()
    parts = {
        "ids": torch.arange(2),
        "names": torch.frombuffer(bytearray(names), dtype=torch.uint8),
        "sizes": torch.full((2, 2), 64, dtype=torch.int32),
        "offsets": torch.tensor([0, 2, 3]),
        "boxes": torch.zeros(3, 4),
        "scores": torch.zeros(3),
    }
    for name in list(parts):
        how = chance.random()
        if how < 0.08:
            del parts[name]
        elif how < 0.2:
            parts[name] = torch.from_numpy(chance.integers(-9, 9, chance.integers(0, 4, int(chance.integers(0, 3)))))
        elif how < 0.25:
            parts[name] = parts[name].to(pick(chance, [torch.float32, torch.int64, torch.uint8]))
    about = {"format": pick(chance, [PROPOSALS] * 6 + [FORMAT, "x"]), "model": "rpn"}
    return parts, about


def _rows(chance: Chance) -> np.ndarray:
    shape = pick(chance, [(3, 5), (3, 4), (0, 5), (0, 4), (0,), (2, 6), (), (1, 1, 5)])
    kind = pick(chance, [np.float32, np.float64, np.int64, np.float16, bool, object, "U3"])
    return chance.uniform(-1, 100, shape).astype(kind) if shape != () else np.zeros((), np.float32)
