"""Resume a run: select its newest intact checkpoint, and check that dataset and settings have not changed."""

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch

from libradet.data.proposals.precomputed import PrecomputedProposals, fingerprint_proposals
from libradet.data.records import Dataset, ImageRecord
from libradet.data.transforms.describe import describe
from libradet.errors import UserError
from libradet.geometry.tiles import MIN_AREA_RATIO
from libradet.training.config import TrainConfig
from libradet.training.run_files import LAST_CHECKPOINT, PREVIOUS_CHECKPOINT
from libradet.utils.text import counted, summarize_list


@dataclass(frozen=True)
class RunIdentity:
    """Settings and data that must not change between the parts of a run, kept in its checkpoints.

    Attributes:
        num_images: in the training split, whole ones.
        world_size: number of processes that train together.
        augmentations: users' own transforms as text, see :func:`libradet.data.transforms.describe.describe`.
        tiles: size and overlap of the tiles of the images.
        train_data, val_data: see :func:`fingerprint`; empty without validation images.
        train_proposals, val_proposals: see :func:`~libradet.data.proposals.precomputed.fingerprint_proposals`; None
            without proposals.
    """

    num_images: int
    class_names: list[str]
    seed: int
    batch_size: int
    accumulate_grad_batches: int
    world_size: int
    optimizer: str
    layer_decay: float | None
    hflip_prob: float
    scale_jitter: list[float] | None
    mosaic_prob: float
    copy_paste_prob: float
    color_jitter: float
    repeat_factor_thresh: float
    train_data: list[int]
    val_data: list[int]
    vflip_prob: float = 0.0
    rotate90_prob: float = 0.0
    mixup_prob: float = 0.0
    gaussian_blur: float = 0.0
    gaussian_noise: float = 0.0
    augmentations: list[str] = field(default_factory=list)
    tiles: list[float] | None = None
    tile_min_area_ratio: float = MIN_AREA_RATIO
    tile_empty_fraction: float = 1.0
    train_proposals: int | None = None
    val_proposals: int | None = None


DEFAULTS = {f.name: f.default for f in fields(RunIdentity) if f.default is not MISSING} | {"augmentations": []}
"""Values of settings that are newer than a checkpoint."""

_FINGERPRINTS = ("train_data", "val_data", "train_proposals", "val_proposals")

MAX_SETTING_LENGTH = 300
"""Of a setting in a message."""


@dataclass(frozen=True)
class ResumeState:
    """Progress of a run that is resumed.

    Attributes:
        batches: done, of each process.
        steps: optimizer steps done.
        validations_without_improvement: as early stopping counts them.
        path: the checkpoint; None at the start of a run.
        note: why it is not last.ckpt, if it is not.
    """

    batches: int = 0
    steps: int = 0
    validations_without_improvement: int = 0
    path: Path | None = None
    note: str = ""


def run_identity(
    config: TrainConfig,
    train_set: Dataset,
    val_set: Dataset | None,
    transforms: Sequence[Callable[..., Any]] = (),
    proposals: tuple[PrecomputedProposals | None, PrecomputedProposals | None] = (None, None),
) -> RunIdentity:
    """Return the identity of a run that is about to start.

    Args:
        transforms: those of ``config.augmentations``.
        proposals: precomputed ones for training and validation.
    """
    train_proposals, val_proposals = (None if p is None else fingerprint_proposals(p) for p in proposals)
    derived: dict[str, Any] = {
        "num_images": len(train_set),
        "class_names": train_set.class_names,
        "world_size": config.world_size,
        "scale_jitter": None if config.scale_jitter is None else list(config.scale_jitter),
        "augmentations": [describe(transform) for transform in transforms],
        "train_data": fingerprint(train_set),
        "val_data": [] if val_set is None else fingerprint(val_set),
        "train_proposals": train_proposals,
        "val_proposals": val_proposals,
    }
    settings = {f.name: getattr(config, f.name) for f in fields(RunIdentity) if f.name not in derived}
    return RunIdentity(**derived, **settings)


def newest_intact_checkpoint(folder: Path) -> tuple[Path | None, str]:
    """Return the newest intact checkpoint of a run, None before its first one; and why that is not last.ckpt.

    Raises:
        UserError: all checkpoints are damaged.
    """
    problems = []
    for name in (LAST_CHECKPOINT, PREVIOUS_CHECKPOINT):
        path = folder / name
        if not path.exists():
            problems.append(f"{name} is missing")
        elif damage := check_integrity(path):
            problems.append(f"{name} is damaged ({damage})")
        else:
            return path, "; ".join(problems)
    if not has_checkpoint(folder):
        return None, ""
    raise UserError(f"{folder}: {' and '.join(problems)}: the run cannot be resumed; start a new run")


def has_checkpoint(folder: Path) -> bool:
    """Return whether a run folder has any checkpoint, intact or not."""
    return any((folder / name).exists() for name in (LAST_CHECKPOINT, PREVIOUS_CHECKPOINT))


def check_integrity(path: Path) -> str:
    """Return what is wrong with a checkpoint according to the checksums that torch.save writes; empty if intact.

    It is not unpickled. About one second per GB.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            corrupt_member = archive.testzip()
    except Exception as e:  # zipfile raises nearly any exception on damaged files
        return str(e) or type(e).__name__
    return f"{corrupt_member.partition('/')[2]} in it has changed" if corrupt_member else ""


def load_resume_state(folder: Path, identity: RunIdentity, train_set: Dataset, val_set: Dataset | None) -> ResumeState:
    """Return the progress of the run in a folder.

    Raises:
        UserError: no checkpoint can be read, or data, batches, augmentation or optimizer have changed since.
    """
    path, note = newest_intact_checkpoint(folder)
    if path is None:
        return ResumeState()
    checkpoint = read_checkpoint(path)
    saved = checkpoint["libradet"]["run_identity"]
    if saved is None:
        raise UserError(f"{path}: not a checkpoint of libradet train; resume it with the Trainer that wrote it")
    for name, value in asdict(identity).items():
        # A setting that is newer than the checkpoint had its default then.
        before = saved.get(name, DEFAULTS.get(name, value))
        if name not in _FINGERPRINTS and before != value:
            before, value = (_shorten(setting) for setting in (before, value))
            raise UserError(
                f"{path}: the run was started with {name} {before} and cannot be resumed with {value}; "
                "restore the setting, or start a new run"
            )
    if saved["train_data"]:
        _check_dataset(path, saved["train_data"], identity.train_data, train_set)
    if val_set is not None and saved["val_data"]:
        _check_dataset(path, saved["val_data"], identity.val_data, val_set)
    _check_proposals(path, saved, identity)
    wait_counts = [
        state["wait_count"] for name, state in checkpoint["callbacks"].items() if name.startswith("EarlyStopping")
    ]
    batches_done = checkpoint["libradet"]["batches_done"]
    return ResumeState(batches_done, checkpoint["global_step"], max(wait_counts, default=0), path, note)


def _shorten(setting: Any) -> str:
    text = str(setting)
    return text if len(text) <= MAX_SETTING_LENGTH else f"{text[:MAX_SETTING_LENGTH]}..."


def _check_dataset(path: Path, saved: Sequence[int], current: Sequence[int], dataset: Dataset) -> None:
    if changes := diff_datasets(saved, current, dataset):
        raise UserError(
            f"{path}: {dataset.root}, {dataset.split} has changed since the run was stopped: "
            f"{summarize_list(changes)}; resume with the original data, or start a new run"
        )


def _check_proposals(path: Path, saved: dict[str, Any], identity: RunIdentity) -> None:
    for name, split in (("train_proposals", "training"), ("val_proposals", "validation")):
        before, now = saved.get(name), getattr(identity, name)
        if None not in (before, now) and before != now:
            raise UserError(
                f"{path}: the precomputed proposals for {split} have changed since the run was stopped; "
                "resume with the original proposals, or start a new run"
            )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint; tensors stay on disk until they are used.

    Raises:
        UserError: not a checkpoint, or one of an earlier version.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as e:  # torch raises nearly any exception on damaged files
        raise UserError(f"{path}: not a readable checkpoint ({type(e).__name__})") from e
    if not isinstance(checkpoint, dict) or "libradet" not in checkpoint:
        raise UserError(f"{path}: not a checkpoint of libradet train")
    if "run_identity" not in checkpoint["libradet"]:
        raise UserError(f"{path}: written by an earlier version of libradet, which cannot be resumed; start a new run")
    return checkpoint


def fingerprint(dataset: Dataset) -> list[int]:
    """Return a number below 2**63 per image: a hash of its file name, size, boxes, classes and masks.

    Pixels are not read, and the folder may move.
    """
    return [_hash_image(image) for image in dataset.images]


def diff_datasets(before: Sequence[int], now: Sequence[int], dataset: Dataset) -> list[str]:
    """Return the differences of two fingerprints as phrases; ``dataset`` belongs to ``now``."""
    if len(before) != len(now):
        return [f"it had {counted(len(before), 'image')} and has {len(now)}"]
    rows = np.flatnonzero(np.array(before, np.int64) != np.array(now, np.int64))
    if sorted(before) == sorted(now):
        return ["its images are in another order"] if len(rows) else []
    return [f"another name, size, boxes or classes of {dataset.images[row].path.name}" for row in rows]


def _hash_image(image: ImageRecord) -> int:
    content = blake2b(digest_size=8)
    content.update(f"{image.path.name}\n{image.width} {image.height} {image.apply_exif}".encode(errors="replace"))
    if image.tile is not None:
        content.update(repr(image.tile).encode())
    for column in (image.boxes, image.labels, image.crowd):
        content.update(column.tobytes())
    for segmentation in image.segmentations or ():
        polygons = segmentation if isinstance(segmentation, list) else []
        if polygons:
            content.update(b"".join(p.tobytes() for p in polygons))
        else:
            content.update(repr(segmentation).encode(errors="replace"))
    return int.from_bytes(content.digest(), "little") >> 1
