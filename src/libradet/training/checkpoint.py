"""last.ckpt: written at once or not at all, and what can be read from it before a run continues."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from libradet.errors import UserError
from libradet.files import replacing
from libradet.training.settings import TrainConfig


@dataclass(frozen=True)
class Circumstances:
    """What has to stay the same for a run to continue with the data order it began with."""

    pictures: int
    class_names: list[str]
    seed: int
    batch_size: int
    accumulate: int
    processes: int


@dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Attributes:
        batches: done, of each process.
        steps: optimiser steps done.
        path: the file that says so; None at the very beginning.
    """

    batches: int = 0
    steps: int = 0
    path: Path | None = None


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old checkpoint and swaps, so that a kill at any moment leaves a whole one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Replace the file at ``path``."""
        with replacing(Path(path)) as partial:
            torch.save(checkpoint, partial)


def circumstances(config: TrainConfig, pictures: int, class_names: list[str]) -> Circumstances:
    """Those of a run that is about to start."""
    return Circumstances(pictures, class_names, config.seed, config.batch_size, config.accumulate, config.world_size)


def read_standing(path: Path, now: Circumstances) -> Standing:
    """Where the run of a checkpoint stands.

    Raises:
        UserError: the file cannot be read, or data or batches have changed since.
    """
    if not path.exists():
        return Standing()
    checkpoint = read_checkpoint(path)
    before = checkpoint["libradet"]["circumstances"]
    for name, value in asdict(now).items():
        if before[name] != value:
            raise UserError(
                f"{path}: the run had {name} {before[name]} and would now have {value}, which changes the order of "
                "its data; resume it as it was, or start a new run"
            )
    return Standing(checkpoint["libradet"]["batches_done"], checkpoint["global_step"], path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint, tensors left on disk until used. Raises UserError if it is not one."""
    try:
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as e:  # torch raises nearly anything on damaged files
        raise UserError(f"{path}: not a readable checkpoint ({type(e).__name__})") from e
    if "libradet" not in checkpoint:
        raise UserError(f"{path}: not a checkpoint of a run of libradet train")
    return checkpoint
