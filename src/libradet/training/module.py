"""A detector as Lightning trains it."""

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from typing import Any

import lightning.pytorch as pl
import torch
from jaxtyping import Float
from torch import Tensor

from libradet.data.batch import Batch
from libradet.errors import UserError
from libradet.evaluation.coco_evaluator import CocoEvaluator, evaluator_of
from libradet.evaluation.coco_metrics import Metrics, deciding, scalars
from libradet.models.detector import Detector
from libradet.training.datamodule import DetectorData
from libradet.training.recipe import build_optimizer, mix, resolve
from libradet.training.settings import Circumstances, TrainConfig


@dataclass(frozen=True)
class Measured:
    """Losses of one batch as numbers, the rows of its images in the dataset, and what else is to be logged."""

    losses: dict[str, float]
    images: list[int]
    beside: dict[str, float] = field(default_factory=dict)

    @property
    def finite(self) -> bool:
        """Whether every term is a number."""
        return all(isfinite(v) for v in self.losses.values())


class LossWatch:
    """Losses go in as tensors and come out as numbers once the device has computed them.

    On a CPU that is at once. On a GPU they are copied in the background and come out one or more steps
    later, so that no step waits for its own result.

    Attributes:
        failure: the first batch whose losses turned out not to be finite.
        latest: the last losses that were read.
    """

    def __init__(self) -> None:
        self.failure: Measured | None = None
        self.latest: Measured | None = None
        self._waiting: deque[tuple[list[str], Tensor, torch.cuda.Event | None, list[int], int]] = deque()
        self._arrived: list[Measured] = []

    def put(
        self, losses: dict[str, Tensor], images: list[int], beside: Mapping[str, Float[Tensor, ""]] | None = None
    ) -> None:
        """Hand in the losses of a batch, and other numbers that are to be logged with them."""
        everything = [*losses.items(), *(beside or {}).items()]
        values = torch.stack([v.detach().float() for _, v in everything])
        event = None
        if values.is_cuda:
            pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            pinned.copy_(values, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            values = pinned
        self._waiting.append(([name for name, _ in everything], values, event, images, len(losses)))

    def poll(self, wait: bool = False) -> None:
        """Read what the device has finished; with ``wait``, everything handed in."""
        while self._waiting:
            names, values, event, images, number = self._waiting[0]
            if event is not None and not event.query():
                if not wait:
                    return
                event.synchronize()
            self._waiting.popleft()
            pairs = list(zip(names, values.tolist(), strict=True))
            measured = Measured(dict(pairs[:number]), images, dict(pairs[number:]))
            self._arrived.append(measured)
            self.latest = measured
            if self.failure is None and not measured.finite:
                self.failure = measured

    def take(self) -> list[Measured]:
        """All that is known by now and was not taken before, oldest first."""
        self.poll()
        taken, self._arrived = self._arrived, []
        return taken


class DetectorModule(pl.LightningModule):
    """Steps, optimizer, random state and validation of a run; goes with :class:`DetectorData`.

    Nothing random survives a step: order and augmentation come from (seed, epoch), sampling is seeded
    anew for every batch. So where a run stands is one number, ``batches_done``, and a Trainer that
    resumes from its checkpoint in the middle of an epoch goes on as if it had never stopped.

    Logged are ``train/loss`` and its terms at every step, and COCO's numbers as ``val/AP``, ``val/AP50``, ... after
    every validation, for callbacks to monitor.

    Args:
        detector: what is trained.
        config: recipe; what is None in it is filled in when training starts. The Trainer decides on epochs,
            accumulation, precision and clipping.
        circumstances: of this run, kept in its checkpoints.

    Attributes:
        batches_done: of this process, in all epochs.
        metrics: everything that the last validation measured.
    """

    def __init__(
        self, detector: Detector, config: TrainConfig | None = None, circumstances: Circumstances | None = None
    ) -> None:
        super().__init__()
        self.detector = detector
        self.config = config or TrainConfig(data="")
        self.batches_done = 0
        self.watch = LossWatch()
        self.metrics: Metrics = {}
        self._circumstances = circumstances
        self._evaluator: CocoEvaluator | None = None
        self._steps_before = 0

    @property
    def batches_per_epoch(self) -> int:
        """Of each process."""
        return self.data.batches_per_epoch

    @property
    def steps_done(self) -> int:
        """Optimizer steps behind the weights; also outside of training, when they come from a checkpoint."""
        return self.trainer.global_step or self._steps_before

    @property
    def epoch_of_last_batch(self) -> int:
        """Counted from 0."""
        return max(0, self.batches_done - 1) // self.batches_per_epoch

    def configure_optimizers(self) -> Any:
        """The optimizer; its schedule advances with every optimizer step."""
        trainer = self.trainer
        config = replace(self.config, accumulate=trainer.accumulate_grad_batches)
        if trainer.max_steps > 0:
            config = replace(config, max_steps=trainer.max_steps)
        if trainer.max_epochs is not None and trainer.max_epochs > 0:
            config = replace(config, epochs=trainer.max_epochs)
        optimizer, schedule = build_optimizer(
            self.detector, resolve(config, self.batches_per_epoch), self.batches_per_epoch
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """A new epoch has its own order; an epoch that is continued does not come by here."""
        self.data.set_epoch(self.current_epoch)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Sampling is a function of seed, batch and process."""
        self.batches_done = self.current_epoch * self.batches_per_epoch + batch_idx
        torch.manual_seed(mix(self.config.seed, self.batches_done, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The sum of all losses."""
        losses = self.detector(batch)
        weights = self.detector.loss_weights
        self.watch.put(losses, self.data.images, None if weights is None else weights.by_name())
        total = torch.stack(list(losses.values())).sum()
        # Loggers get means over several steps, which are read without waiting for the device.
        terms = {"train/loss": total, **{f"train/loss_{name}": value for name, value in losses.items()}}
        self.log_dict({name: value.detach() for name, value in terms.items()}, logger=False, batch_size=1)
        self.batches_done += 1
        return total

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Gradients are freed at once: Lightning does so after the next forward pass, when memory is shortest."""
        super().optimizer_step(*args, **kwargs)
        self.zero_grad()

    def on_validation_start(self) -> None:
        """Measure on the validation images of :class:`DetectorData`."""
        data = self.data
        assert data.val_set is not None
        self._evaluator, _ = evaluator_of(self.detector, data.val_set)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Take in what the detector finds."""
        assert self._evaluator is not None
        self._evaluator.update(self.detector(batch), batch)

    def on_validation_epoch_end(self) -> None:
        """COCO's numbers, the same in every process."""
        assert self._evaluator is not None
        self.metrics = self._evaluator.compute()
        self._evaluator = None
        decides = deciding(self.metrics)
        # Where there is nothing to find every model is as good, and the latest is kept.
        shown = {decides: float("nan")} | scalars(self.metrics)
        numbers = {f"val/{name}": torch.tensor(value) for name, value in shown.items()}
        self.log_dict(numbers, logger=False, batch_size=1)

    def on_validation_end(self) -> None:
        """The last thing that happens in a validation: where its row is, everything else is."""
        if self.trainer.sanity_checking:
            return
        row = {f"val/{name}": value for name, value in scalars(self.metrics).items()}
        for logger in self.trainer.loggers:
            logger.log_metrics(row | {"epoch": self.epoch_of_last_batch}, self.steps_done)
            logger.save()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Where the run stands, and what has to be the same for it to continue."""
        circumstances = None if self._circumstances is None else asdict(self._circumstances)
        checkpoint["libradet"] = {"batches_done": self.batches_done, "circumstances": circumstances}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stand where the checkpoint was written."""
        self.batches_done = checkpoint["libradet"]["batches_done"]
        self._steps_before = checkpoint["global_step"]

    @property
    def data(self) -> DetectorData:
        """What the Trainer trains on. Raises UserError if that is something else."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, DetectorData):
            raise UserError("DetectorModule trains on DetectorData: trainer.fit(module, datamodule=DetectorData(...))")
        return data
