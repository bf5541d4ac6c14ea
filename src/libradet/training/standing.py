"""Where a run stands, and whether it can go on: what is read of its folder before it continues."""

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from libradet.data.checks.report import few
from libradet.data.records import Dataset
from libradet.errors import UserError
from libradet.training.fingerprint import differing, fingerprint
from libradet.training.settings import Circumstances, TrainConfig

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
"""The latest checkpoint, and the one before, should a disk damage the latest."""


@dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Attributes:
        batches: done, of each process.
        steps: optimizer steps done.
        unimproved: measurements since the best one, as early stopping counts them.
        path: the file that says so; None at the very beginning.
        note: why it is not last.ckpt, if it is not.
    """

    batches: int = 0
    steps: int = 0
    unimproved: int = 0
    path: Path | None = None
    note: str = ""


def circumstances(config: TrainConfig, train_set: Dataset, val_set: Dataset | None) -> Circumstances:
    """Those of a run that is about to start."""
    derived: dict[str, Any] = {
        "images": len(train_set),
        "class_names": train_set.class_names,
        "processes": config.world_size,
        "scale_jitter": None if config.scale_jitter is None else list(config.scale_jitter),
        "train_data": fingerprint(train_set),
        "val_data": [] if val_set is None else fingerprint(val_set),
    }
    settings = {f.name: getattr(config, f.name) for f in fields(Circumstances) if f.name not in derived}
    return Circumstances(**derived, **settings)


def find_checkpoint(folder: Path) -> tuple[Path | None, str]:
    """The newest whole checkpoint of a run, None before its first one; and why that is not last.ckpt.

    Raises:
        UserError: there are some, and all are damaged.
    """
    troubles = []
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not path.exists():
            troubles.append(f"{name} is missing")
        elif damage := damage_of(path):
            troubles.append(f"{name} is damaged ({damage})")
        else:
            return path, "; ".join(troubles)
    if not any((folder / name).exists() for name in (LAST, PREVIOUS)):
        return None, ""
    raise UserError(f"{folder}: {' and '.join(troubles)}: there is nothing to continue from; start a new run")


def damage_of(path: Path) -> str:
    """What is wrong with a checkpoint that was whole once, by the checksums that torch.save writes; empty if nothing.

    It is not unpickled. 1 GB takes about a second.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            changed = archive.testzip()
    except Exception as e:  # zipfile, too, raises nearly anything on damaged files
        return str(e) or type(e).__name__
    return f"{changed.partition('/')[2]} in it has changed" if changed else ""


def read_standing(folder: Path, now: Circumstances, train_set: Dataset, val_set: Dataset | None) -> Standing:
    """Where the run in a folder stands.

    Raises:
        UserError: no checkpoint in it can be read, or data, batches, augmentation or optimizer have changed since.
    """
    path, note = find_checkpoint(folder)
    if path is None:
        return Standing()
    checkpoint = read_checkpoint(path)
    before = checkpoint["libradet"]["circumstances"]
    for name in (f.name for f in fields(Circumstances) if f.name not in ("train_data", "val_data")):
        # What was not a setting yet when the file was written is as it was.
        if name in before and before[name] != getattr(now, name):
            raise UserError(
                f"{path}: the run had {name} {before[name]} and would now have {getattr(now, name)}, which makes it "
                "another run; resume it as it was, or start a new run"
            )
    _refuse_other_data(path, "train_data", before, now, train_set)
    if val_set is not None:
        _refuse_other_data(path, "val_data", before, now, val_set)
    waited = [
        state["wait_count"] for name, state in checkpoint["callbacks"].items() if name.startswith("EarlyStopping")
    ]
    done = checkpoint["libradet"]["batches_done"]
    return Standing(done, checkpoint["global_step"], max(waited, default=0), path, note)


def _refuse_other_data(path: Path, name: str, before: dict[str, Any], now: Circumstances, dataset: Dataset) -> None:
    known = before.get(name)
    if not known:  # written before there were fingerprints, or without anything to measure on
        return
    if changed := differing(known, getattr(now, name), dataset):
        raise UserError(
            f"{path}: {dataset.root}, {dataset.split} has changed since the run was stopped: {few(changed)}; "
            "resume it with the data that it had, or start a new run"
        )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint, tensors left on disk until used. Raises UserError if it is not one."""
    try:
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as e:  # torch raises nearly anything on damaged files
        raise UserError(f"{path}: not a readable checkpoint ({type(e).__name__})") from e
    if not isinstance(checkpoint, dict) or "libradet" not in checkpoint:
        raise UserError(f"{path}: not a checkpoint of a run of libradet train")
    return checkpoint
