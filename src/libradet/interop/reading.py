"""Tensors and notes of a checkpoint in any of the formats that detectors come in, without executing anything."""

import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from libradet import unpickling
from libradet.errors import UserError

STATE_KEYS = ("state_dict", "model", "model_state_dict", "model_ema", "state_dict_ema")
"""Where trainers keep the weights."""


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors by name, and what the file says about itself.

    Reads .safetensors, PyTorch files of both formats, and detectron2's .pkl; the content decides, not the
    file's name. Names lose the ``module.`` that wrappers for several devices put in front.

    Raises:
        UserError: no such file, not a checkpoint, or one that wants more than to be data.
    """
    path = Path(path)
    try:
        with path.open("rb") as f:
            start = f.read(9)
    except OSError as e:
        raise UserError(f"{path}: no such file" if isinstance(e, FileNotFoundError) else f"{path}: {e}") from e
    if start[8:9] == b"{":
        return _read_safetensors(path)
    try:
        content = _read_zip(path) if start[:2] == b"PK" else _read_pickle(path)
    except UserError as e:
        raise UserError(f"{path}: {e}") from e
    except unpickling.DAMAGED as e:
        raise UserError(f"{path}: not a checkpoint that can be read ({type(e).__name__}: {_first_line(e)})") from e
    return _split(content, path)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as f:
            return _strip({name: f.get_tensor(name) for name in f.keys()}), dict(f.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as e:
        raise UserError(f"{path}: not a readable .safetensors file ({e})") from e


def _read_zip(path: Path) -> Any:
    # torch.load would run such a file; asked of torch's own reader, so that both see the same members.
    if "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():
        raise UserError("a TorchScript program, not a checkpoint; save the model's state_dict() instead")
    # What torch writes is not compressed; what is could unpack a small file into a huge one.
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise UserError("its members are compressed, as those of a checkpoint never are; it was not loaded")
    return _torch_load(path)


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as f:
        first = f.read(16)
    # PyTorch's oldest format: nothing of today is one, and unpacking one is not reading.
    if tarfile.is_tarfile(path):
        raise UserError("a tar archive, as PyTorch wrote them before 2017; load and save it again with a newer version")
    if torch.serialization.MAGIC_NUMBER.to_bytes(10, "little") in first:
        return _torch_load(path)
    with path.open("rb") as f:
        # detectron2 writes arrays; those of Python 2 need this encoding.
        return unpickling.load(f, encoding="latin1")


def _torch_load(path: Path) -> Any:
    # weights_only would refuse a trainer's own objects; our reader lets those through as inert ones.
    return torch.load(path, map_location="cpu", pickle_module=unpickling, weights_only=False)


def _split(content: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not tensors by name")
    state, meta = content, {}
    for key in STATE_KEYS:
        if isinstance(content.get(key), dict):
            state, meta = content[key], content.get("meta", {})
            break
    if unnamed := [key for key in state if not isinstance(key, str)]:
        raise UserError(f"{path}: not a checkpoint of a detector: a {type(unnamed[0]).__name__} stands for a name")
    tensors = {name: _tensor(value) for name, value in state.items()}
    strange = [name for name, value in tensors.items() if value is None]
    if strange or not tensors:
        what = f"{strange[0]!r} is not a tensor" if strange else "there are no tensors"
        raise UserError(f"{path}: not a checkpoint of a detector: {what} (weights are looked for under {STATE_KEYS})")
    return _strip({name: t for name, t in tensors.items() if t is not None}), meta if isinstance(meta, dict) else {}


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        # Not copied where it can be helped: what is larger than it should be is refused before it is touched.
        return torch.from_numpy(value if value.flags.writeable else value.copy())
    return value.detach() if isinstance(value, Tensor) else None


def _strip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): t for name, t in tensors.items()}
    return tensors


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]
