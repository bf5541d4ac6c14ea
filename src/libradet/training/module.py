"""LightningModule that trains a detector."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import lightning.pytorch as pl
import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from libradet.data.batch import Batch
from libradet.data.repeat_factors import count_objects
from libradet.errors import UserError
from libradet.evaluation.coco import Metrics, primary_metric, scalars
from libradet.evaluation.evaluator import CocoEvaluator, build_evaluator
from libradet.inference.run_model import OnBatch
from libradet.inference.tiles import TileMerger, make_tiling
from libradet.models.class_balance import needs_frequencies
from libradet.models.detector import Detector
from libradet.training.config import TrainConfig
from libradet.training.datamodule import DetectorData
from libradet.training.loss_reader import AsyncLossReader
from libradet.training.optim import apply_group_settings, build_optimizer, derive_seed, group_settings, resolve
from libradet.training.resume import RunIdentity


class DetectorModule(pl.LightningModule):
    """Training and validation steps, optimizer and random state of a run; used with :class:`DetectorData`.

    No random state is carried from step to step: order and augmentation are functions of (seed, epoch), and sampling is
    seeded for every batch. The progress of a run is therefore one number, ``batches_done``, and a Trainer that resumes
    from a checkpoint within an epoch continues bit-exactly.

    Logged are ``train/loss`` and its terms at every step, and COCO metrics as ``val/AP``, ``val/AP50``, ... after
    every validation, for callbacks to monitor.

    Args:
        detector: to train.
        config: training settings; fields that are None are resolved when training starts. Epochs, accumulation,
            precision and clipping are those of the Trainer.
        identity: of this run, kept in its checkpoints.

    Attributes:
        batches_done: of this process, in all epochs.
        loss_reader: losses of the last steps as numbers, for callbacks.
        metrics: all metrics of the last validation.
    """

    _group_settings: Sequence[dict[str, Any]] = ()  # empty in subclasses with an optimizer of their own

    def __init__(
        self, detector: Detector, config: TrainConfig | None = None, identity: RunIdentity | None = None
    ) -> None:
        super().__init__()
        self.detector = detector
        self.config = config or TrainConfig(data="")
        self.batches_done = 0
        self.loss_reader = AsyncLossReader()
        self.metrics: Metrics = {}
        self._identity = identity
        self._evaluator: CocoEvaluator | None = None
        self._on_batch: OnBatch | None = None
        self._loaded_step = 0

    @property
    def batches_per_epoch(self) -> int:
        """Batches of each process per epoch."""
        return self.data.batches_per_epoch

    @property
    def steps_done(self) -> int:
        """Optimizer steps behind the weights, also outside of training when they come from a checkpoint."""
        return self.trainer.global_step or self._loaded_step

    @property
    def epoch_of_last_batch(self) -> int:
        """Epoch of the last batch, starting at 0."""
        return max(0, self.batches_done - 1) // self.batches_per_epoch

    def configure_optimizers(self) -> Any:
        """Return the optimizer, and the scheduler that advances with every optimizer step."""
        trainer = self.trainer
        config = replace(self.config, accumulate_grad_batches=trainer.accumulate_grad_batches)
        if trainer.max_steps > 0:
            config = replace(config, max_steps=trainer.max_steps)
        if trainer.max_epochs is not None and trainer.max_epochs > 0:
            config = replace(config, max_epochs=trainer.max_epochs)
        resolved = resolve(config, self.batches_per_epoch)
        # Lightning refuses to clip the gradients of fused optimizers under autocast, also without a gradient scaler.
        fused = True if self.device.type == "cpu" and trainer.precision == "32-true" else None
        optimizer, scheduler = build_optimizer(self.detector, resolved, self.batches_per_epoch, fused)
        self._group_settings = group_settings(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Count the objects of each class, if class weights need it."""
        if needs_frequencies(self.detector.config):
            self.detector.set_class_frequencies(count_objects(self.data.train_set))

    def on_train_start(self) -> None:
        """Apply learning rate, decay and momentum of a resumed run, which may differ from those in its checkpoint."""
        if not self._group_settings:
            return
        scheduler = self.trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, LambdaLR)
        apply_group_settings(self.trainer.optimizers[0], scheduler, self._group_settings)

    def on_train_epoch_start(self) -> None:
        """Shuffle for the epoch; not called for an epoch that is resumed."""
        self.data.set_epoch(self.current_epoch)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed sampling with seed, batch and process, and set the progress of its schedules."""
        self.batches_done = self.current_epoch * self.batches_per_epoch + batch_idx
        steps = self.trainer.estimated_stepping_batches
        steps = steps if self.config.max_steps is None else min(steps, self.config.max_steps)
        total_batches = steps * self.trainer.accumulate_grad_batches
        self.detector.set_training_progress(min(self.batches_done / max(total_batches, 1), 1.0))
        torch.manual_seed(derive_seed(self.config.seed, self.batches_done, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """Return the sum of all losses."""
        losses = self.detector(batch)
        weights = self.detector.loss_weights
        # Batch.index stays on the CPU (see DetectorData), so this does not wait for the device.
        image_indices = [] if batch.index is None else batch.index.tolist()
        self.loss_reader.enqueue(losses, image_indices, None if weights is None else weights.by_name())
        total = torch.stack(list(losses.values())).sum()
        # Loggers get means over several steps, which LossLogger reads without waiting for the device.
        terms = {"train/loss": total, **{f"train/loss_{name}": value for name, value in losses.items()}}
        self.log_dict({name: value.detach() for name, value in terms.items()}, logger=False, batch_size=1)
        self.batches_done += 1
        return total

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Free gradients immediately; Lightning does so after the next forward pass, at the peak of memory."""
        super().optimizer_step(*args, **kwargs)
        self.zero_grad()

    def on_validation_start(self) -> None:
        """Create the evaluator of the validation images."""
        data = self.data
        assert data.val_set is not None
        self._evaluator, _ = build_evaluator(self.detector, data.val_set)
        self._on_batch = self._evaluator.update
        if tiling := make_tiling(self.detector, data.tiles):
            assert data.val_tiles is not None
            self._on_batch = TileMerger(data.val_tiles, self._evaluator.update, tiling).update

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the detections of a batch."""
        assert self._on_batch is not None
        self._on_batch(self.detector(batch), batch)

    def on_validation_epoch_end(self) -> None:
        """Compute and log COCO metrics, the same in every process."""
        assert self._evaluator is not None
        self.metrics = self._evaluator.compute()
        self._evaluator = self._on_batch = None
        # Without objects the monitored metric is NaN: all models are equal, and the latest is kept.
        logged = {primary_metric(self.metrics): float("nan")} | scalars(self.metrics)
        tensors = {f"val/{name}": torch.tensor(value) for name, value in logged.items()}
        self.log_dict(tensors, logger=False, batch_size=1)

    def on_validation_end(self) -> None:
        """Write the row of the validation; it is the last action, so a run with that row has everything else, too."""
        if self.trainer.sanity_checking:
            return
        row = {f"val/{name}": value for name, value in scalars(self.metrics).items()}
        for logger in self.trainer.loggers:
            logger.log_metrics(row | {"epoch": self.epoch_of_last_batch}, self.steps_done)
            logger.save()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add progress and identity of the run."""
        identity = None if self._identity is None else asdict(self._identity)
        checkpoint["libradet"] = {"batches_done": self.batches_done, "run_identity": identity}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the progress of the run."""
        self.batches_done = checkpoint["libradet"]["batches_done"]
        self._loaded_step = checkpoint["global_step"]

    @property
    def data(self) -> DetectorData:
        """Data module of the Trainer. Raises UserError if it is not a DetectorData."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, DetectorData):
            raise UserError("DetectorModule trains on DetectorData: trainer.fit(module, datamodule=DetectorData(...))")
        return data
