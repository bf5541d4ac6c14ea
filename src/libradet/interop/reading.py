"""Reading of tensors and metadata from checkpoints in any file format, without executing anything in them."""

import string
import tarfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from libradet.errors import UserError
from libradet.interop.averaged_weights import AVERAGED_KEYS, TRAINED_KEYS, choose_state
from libradet.utils import safe_pickle

STATE_KEYS = (*TRAINED_KEYS, *AVERAGED_KEYS)
"""Keys under which trainers store the weights."""


EXPORTED_SUFFIXES = (".onnx", ".pt2")
"""Suffixes of files that :mod:`libradet.export` writes."""


class Checkpoint(NamedTuple):
    """Content of a checkpoint.

    Attributes:
        tensors: by name.
        meta: metadata of the file.
        note: which weights were read, if the file has two sets; else empty.
    """

    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    note: str = ""


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the metadata in the header of a .safetensors file, without reading tensors; {} for any other file."""
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def read_checkpoint(path: str | Path, use_ema: bool | None = None) -> Checkpoint:
    """Read tensors and metadata of a checkpoint.

    Reads .safetensors, PyTorch files of both formats, and detectron2's .pkl; the format is detected by the content,
    not the file's name. The prefix ``module.`` of data-parallel wrappers is removed.

    Args:
        use_ema: of two sets of weights, load the moving average (True) or what was trained (False); see
            :func:`libradet.interop.averaged_weights.choose_state` for the default.

    Raises:
        UserError: the file is missing, not a checkpoint, or refers to more than plain data.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name the file in it, {path / 'best.safetensors'} of a training run")
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if start[8:9] == b"{":
        return _read_safetensors(path)
    if path.suffix in EXPORTED_SUFFIXES:
        raise UserError(f"{path}: is an exported file, not a checkpoint; name the model that it was exported from")
    try:
        content = _read_zip(path) if start[:2] == b"PK" else _read_pickle(path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except safe_pickle.READ_ERRORS as error:
        raise UserError(f"{path}: not a readable checkpoint ({_reason(start, error)})") from error
    return _split(content, path, use_ema)


def _reason(start: bytes, error: Exception) -> str:
    """Return what a file is that could not be read, by its first bytes, else what the reader says."""
    if not start:
        return "an empty file"
    if start.startswith((b"\xff\xd8\xff", b"\x89PNG")):
        return "an image"
    # Also pickles of Python 2 may start so, but those could be read.
    if all(byte in string.printable.encode() for byte in start):
        return "a text file, without weights"
    return f"{type(error).__name__}: {_first_line(error)}"


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Checkpoint(_strip_module_prefix(tensors), dict(file.metadata() or {}))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable .safetensors file ({error})") from error


def _read_zip(path: Path) -> Any:
    # torch.load would execute a TorchScript program. The members are listed by torch's own reader, the one that loads.
    if "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():
        raise UserError("a TorchScript program, not a checkpoint; save the model's state_dict() instead")
    # torch does not compress; a compressed member could be a zip bomb.
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise UserError("its members are compressed, unlike those of a checkpoint; it was not loaded")
    return _torch_load(path)


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        first = file.read(16)
    # PyTorch's oldest format; reading it would unpack an archive.
    if tarfile.is_tarfile(path):
        raise UserError("a tar archive, PyTorch's format before 2017; load and save it again with a newer version")
    if torch.serialization.MAGIC_NUMBER.to_bytes(10, "little") in first:
        return _torch_load(path)
    with path.open("rb") as file:
        # detectron2 stores NumPy arrays; pickles of Python 2 need this encoding.
        return safe_pickle.load(file, encoding="latin1")


def _torch_load(path: Path) -> Any:
    # weights_only=True would refuse files with objects of a trainer; safe_pickle replaces those by placeholders.
    return torch.load(path, map_location="cpu", pickle_module=safe_pickle, weights_only=False)


def _split(content: Any, path: Path, use_ema: bool | None) -> Checkpoint:
    """Return the state dict and the metadata of a checkpoint's content."""
    if not isinstance(content, dict):
        raise UserError(f"{path}: contains a {type(content).__name__} instead of tensors by name")
    state, meta, note = choose_state(content, use_ema)
    if not_text := [key for key in state if not isinstance(key, str)]:
        key_type = type(not_text[0]).__name__
        raise UserError(f"{path}: not a checkpoint of a detector: a name is a {key_type} instead of text")
    tensors = {name: _to_tensor(value) for name, value in state.items()}
    others = [name for name, value in tensors.items() if value is None]
    if others or not tensors:
        reason = f"{others[0]!r} is not a tensor" if others else "there are no tensors"
        raise UserError(
            f"{path}: not a checkpoint of a detector: {reason} (weights are expected at the top level or under one of "
            f"{', '.join(STATE_KEYS)})"
        )
    meta = meta if isinstance(meta, dict) else {}
    return Checkpoint(_strip_module_prefix({name: t for name, t in tensors.items() if t is not None}), meta, note)


def _to_tensor(value: Any) -> Tensor | None:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        # Copied only if necessary: tensors of a wrong size are refused before their memory is touched.
        return torch.from_numpy(value if value.flags.writeable else value.copy())
    return value.detach() if isinstance(value, Tensor) else None


def _strip_module_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): t for name, t in tensors.items()}
    return tensors


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]
