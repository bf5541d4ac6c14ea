"""A detector as Lightning trains it."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from libradet.data.batch import Batch
from libradet.data.loading.loader import BatchSampler
from libradet.models.detector import Detector
from libradet.training.checkpoint import Circumstances
from libradet.training.recipe import build_optimizer, mix
from libradet.training.settings import TrainConfig
from libradet.training.watch import LossWatch

MakeLoader = Callable[[int, int], DataLoader]
"""The loader of one process: (rank, number of processes) → loader."""


class DetectorTraining(pl.LightningModule):
    """Steps, optimiser, data order and random state of a run.

    Nothing random survives a step: order and augmentation come from (seed, epoch), sampling is seeded
    anew for every batch. So where a run stands is one number, ``batches_done``.

    Args:
        detector: what is trained.
        config: resolved.
        make_loader: builds the training loader of a process.
        batches_per_epoch: of each process.
        circumstances: of this run, kept in its checkpoints.
    """

    def __init__(
        self,
        detector: Detector,
        config: TrainConfig,
        make_loader: MakeLoader,
        batches_per_epoch: int,
        circumstances: Circumstances,
    ) -> None:
        super().__init__()
        self.detector = detector
        self.config = config
        self.batches_per_epoch = batches_per_epoch
        self.batches_done = 0
        self.watch = LossWatch()
        self._make_loader = make_loader
        self._circumstances = circumstances
        self._pictures: list[int] = []

    def train_dataloader(self) -> DataLoader:
        """The loader, at the batch where the run stands."""
        loader = self._make_loader(self.trainer.global_rank, self.trainer.world_size)
        epoch, start = divmod(self.batches_done, self.batches_per_epoch)
        sampler = _sampler_of(loader)
        sampler.set_epoch(epoch)
        sampler.set_start(start)
        return loader

    def configure_optimizers(self) -> Any:
        """SGD; its schedule advances with every optimiser step."""
        optimizer, schedule = build_optimizer(self.detector, self.config, self.batches_per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """A new epoch has its own order; an epoch that is continued does not come by here."""
        _sampler_of(self.trainer.train_dataloader).set_epoch(self.current_epoch)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Note which pictures these are while that costs no waiting for a device."""
        self._pictures = [] if batch.index is None else batch.index.tolist()
        return batch

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Copies run beside the computation where the loader pins its memory."""
        return batch.to(device, non_blocking=True)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Sampling is a function of seed, batch and process."""
        position = self.current_epoch * self.batches_per_epoch + batch_idx
        torch.manual_seed(mix(self.config.seed, position, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The sum of all losses."""
        losses = self.detector(batch)
        self.watch.put(losses, self._pictures)
        return torch.stack(list(losses.values())).sum()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Where the run stands, and what has to be the same for it to continue."""
        checkpoint["libradet"] = {
            "batches_done": self.batches_done,
            "circumstances": asdict(self._circumstances),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stand where the checkpoint was written."""
        self.batches_done = checkpoint["libradet"]["batches_done"]


def _sampler_of(loader: DataLoader | None) -> BatchSampler:
    assert loader is not None
    assert isinstance(loader.batch_sampler, BatchSampler)
    return loader.batch_sampler
