"""Generated models, checkpoints of other toolboxes and proposal files, and malicious pickles."""

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
from libradet.interop.loading import CHECKPOINT_FORMATS, load_checkpoint, load_checkpoint_any, read_config_any
from libradet.models.build import create_model
from libradet.models.serialization import FORMAT, save_model
from libradet.models.zoo import make_config
from libradet.training.options import parse_train
from stress import malicious_pickles
from stress.common import TINY_CONFIG
from stress.mutation import Rng, damage_bytes, mutate_tree, pick

MODEL = "model.safetensors"


def prepare(base: Path) -> None:
    """Write a valid model."""
    torch.manual_seed(0)
    request = parse_train(["--config", str(TINY_CONFIG), "--model", "faster_rcnn", "--data", "x"])
    request.detector.num_classes = 2
    model = create_model("faster_rcnn", config=request.detector, class_names=("cat", "dog"))
    save_model(model, base / MODEL)


def safetensors(rng: Rng, base: Path, folder: Path, canary: Path) -> str | None:
    """Generate and read a libradet model: damaged bytes, changed configuration, or exchanged tensors."""
    path, data = folder / "m.safetensors", (base / MODEL).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    how = rng.random()
    if how < 0.3:
        data = damage_bytes(rng, data[: 8 + length]) + data[8 + length :]
    elif how < 0.4:
        data = damage_bytes(rng, data)
    else:
        header = json.loads(data[8 : 8 + length])
        about = header.get("__metadata__", {})
        if how < 0.85:
            config = mutate_tree(rng, json.loads(about["config"]), int(rng.integers(1, 4)))
            about["config"] = json.dumps(config)
        else:
            header = mutate_tree(rng, header, int(rng.integers(1, 4)))
        text = json.dumps(header).encode("utf-8", "surrogatepass")
        data = struct.pack("<Q", len(text)) + text + data[8 + length :]
    path.write_bytes(data)
    read_config_any(path)
    load_checkpoint_any(path)
    return None


def checkpoint(rng: Rng, base: Path, folder: Path, canary: Path) -> str | None:
    """Generate and read PyTorch files with the toolboxes' names: wrong shapes, damage, malicious objects."""
    path, file = folder / "m.pth", io.BytesIO()
    how = rng.random()
    content: dict[str, Any] = {"state_dict": _state(rng), "meta": _meta(rng)}
    content = pick(rng, [content, content["state_dict"], {"model": content["state_dict"]}])
    if how < 0.35:
        content["optimizer"] = malicious_pickles.trap(rng, canary)
    zipped = bool(rng.integers(2))
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    data = file.getvalue()
    if how >= 0.5:
        data = damage_bytes(rng, data)
    if zipped and rng.random() < 0.3:
        data = _rezip(rng, data)
    path.write_bytes(data)
    return _load(rng, path)


def pickled(rng: Rng, base: Path, folder: Path, canary: Path) -> str | None:
    """Generate and read plain pickles, as detectron2 writes them, and arbitrary opcodes."""
    path = folder / "m.pkl"
    how = rng.random()
    if how < 0.3:
        path.write_bytes(malicious_pickles.program(rng, canary))
    else:
        arrays = {name: t.numpy() for name, t in _state(rng).items()}
        content = {"model": arrays, "__author__": "x"}
        if how < 0.6:
            content["more"] = malicious_pickles.trap(rng, canary)
        path.write_bytes(damage_bytes(rng, pickle.dumps(content, int(rng.integers(6)))))
    return _load(rng, path)


def _load(rng: Rng, path: Path) -> str | None:
    read_config_any(path)
    load_checkpoint(path, allow_partial=bool(rng.integers(2)))
    return None


def _state(rng: Rng) -> OrderedDict[str, torch.Tensor]:
    """Return tiny tensors under the names of some toolbox."""
    family = pick(rng, list(CHECKPOINT_FORMATS))
    name = pick(rng, ["faster_rcnn", "retinanet", "mask_rcnn", "cascade_rcnn", "rpn"])
    try:
        pairs = family.layout(None, make_config(name, num_classes=3)).key_map
    except Exception:  # the toolbox has no such model
        pairs = [("backbone.conv1", ""), ("rpn_head.rpn_conv", "")]
    state: OrderedDict[str, torch.Tensor] = OrderedDict()
    for theirs, _ in pairs:
        for part in ("weight", "bias"):
            if rng.random() < 0.9:
                shape = rng.integers(0, 5, int(pick(rng, [1, 1, 4, 4, 2, 0, 3]))).tolist()
                state[f"{theirs}.{part}"] = torch.zeros(
                    shape, dtype=pick(rng, [torch.float32, torch.half, torch.int64])
                )
    return state


def _meta(rng: Rng) -> Any:
    anchors = "anchor_generator=dict(scales=[8], ratios=[0.5, 1.0])"
    text = f"model = dict(rpn_head=dict({anchors})), test_cfg=dict(rcnn=dict(nms=dict(iou_threshold=0.5)))"
    meta = {"CLASSES": ("a", "b", "c"), "cfg": text, "dataset_meta": {"classes": ["a", "b"]}, "mmdet_version": "2.0"}
    return mutate_tree(rng, meta, int(rng.integers(0, 3)), None)


def _rezip(rng: Rng, data: bytes) -> bytes:
    """Rewrite a zip file with some members compressed, renamed, removed, duplicated or replaced."""
    out = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
            for name in old.namelist():
                content = old.read(name)
                how = rng.random()
                if how < 0.05:
                    continue
                if how < 0.1:
                    content = b"\0" * 1_000_000
                there = pick(rng, [name] * 20 + [f"../{name}", f"/{name}", "archive/constants.pkl"])
                new.writestr(there, content, pick(rng, [zipfile.ZIP_STORED] * 30 + [zipfile.ZIP_DEFLATED]))
    except Exception:
        return data
    return out.getvalue()


def proposals(rng: Rng, base: Path, folder: Path, canary: Path) -> str | None:
    """Generate and read proposal files: libradet's, with changed bytes or parts, and mmdetection's pickles."""
    how = rng.random()
    if how < 0.5:
        path = folder / "p.safetensors"
        parts, about = _proposal_parts(rng)
        if how < 0.4:
            save_file(parts, path, about)
            path.write_bytes(damage_bytes(rng, path.read_bytes()) if how < 0.15 else path.read_bytes())
        else:
            path.write_bytes(damage_bytes(rng, save(parts, about)))
    else:
        path = folder / "p.pkl"
        rows = [_rows(rng) for _ in range(int(rng.integers(4)))]
        names = {
            f"a/p{i}.jpg": pick(rng, [r, {"bboxes": r[..., :4], "scores": r[..., -1]}])
            for i, r in enumerate(rows)
            if r.ndim and r.size
        }
        content = pick(
            rng,
            [rows, names, [malicious_pickles.trap(rng, canary)], {"a": malicious_pickles.trap(rng, canary)}, "x", None],
        )
        data = pickle.dumps(content, int(rng.integers(6)))
        path.write_bytes(data if how < 0.75 else damage_bytes(rng, data))
    file = read_proposals(path)
    if len(file.offsets) != len(file) + 1 or int(file.offsets[-1]) != len(file.boxes):
        return "inconsistent parts, but it was read"
    return None


def _proposal_parts(rng: Rng) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
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
        how = rng.random()
        if how < 0.08:
            del parts[name]
        elif how < 0.2:
            parts[name] = torch.from_numpy(rng.integers(-9, 9, rng.integers(0, 4, int(rng.integers(0, 3)))))
        elif how < 0.25:
            parts[name] = parts[name].to(pick(rng, [torch.float32, torch.int64, torch.uint8]))
    about = {"format": pick(rng, [PROPOSALS] * 6 + [FORMAT, "x"]), "model": "rpn"}
    return parts, about


def _rows(rng: Rng) -> np.ndarray:
    shape = pick(rng, [(3, 5), (3, 4), (0, 5), (0, 4), (0,), (2, 6), (), (1, 1, 5)])
    kind = pick(rng, [np.float32, np.float64, np.int64, np.float16, bool, object, "U3"])
    return rng.uniform(-1, 100, shape).astype(kind) if shape != () else np.zeros((), np.float32)
